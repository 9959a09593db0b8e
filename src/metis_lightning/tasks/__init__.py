"""LightningModules: everything that trains."""
