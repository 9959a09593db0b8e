"""Batches of a stated number of seconds, and the DataModule that serves them."""
