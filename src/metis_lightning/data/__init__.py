"""Corpora, mixing and batches: from files on disk to `SpeechBatch`."""
