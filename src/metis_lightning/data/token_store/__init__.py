"""The token store: tokens of a corpus computed once and read in training."""
