"""Corpora: one file per corpus, its listing and its test sets."""
