"""The sections of `gpu.py`, by what they run."""
