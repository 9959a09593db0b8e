"""Metrics that describe themselves: pure functions, and one object each, which a suite finds."""
