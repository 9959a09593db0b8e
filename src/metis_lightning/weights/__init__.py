"""Bundles of trained weights on disk, and the published layouts."""
