"""What results rows are found by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Key = tuple[str, str, int | None, str]
"""Test set, system, seed (None where nothing is drawn), id: one row each."""


def key_of(row: Mapping[str, Any]) -> Key:
    """Return what a row is found by."""
    return row["test_set"], row["system"], row.get("seed"), row["id"]
