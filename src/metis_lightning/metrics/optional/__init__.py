"""Metrics that a command asks for: predicted ratings, phonemes, prosody, similarity of features."""
