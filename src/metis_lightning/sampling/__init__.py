"""Decoding: the loop that both stages share, and the way of a request through both."""
