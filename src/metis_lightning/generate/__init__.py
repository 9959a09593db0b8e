"""`generate`: files in, files out, by any task."""
