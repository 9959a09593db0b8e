"""Recipes: how one utterance of a corpus becomes one training item, one file per task."""
