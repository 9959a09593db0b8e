"""Manifests: how a corpus is listed, read back, filtered and held in memory."""
