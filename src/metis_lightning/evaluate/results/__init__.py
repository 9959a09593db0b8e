"""Results on disk and their statistics."""
