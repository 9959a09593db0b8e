"""What `generate` can be asked for; nothing is imported here, since the command line's help needs it too."""

SHORTEST_CHUNK = 8.0
"""Seconds; the overlap of two chunks takes two of them."""
