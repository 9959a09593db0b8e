"""The published checkpoints: found, inspected and converted to bundles."""
