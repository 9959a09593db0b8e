"""Lip features: mouth pictures to features at the token rate."""
