"""From a system and a test set to rows, summaries and tables."""
