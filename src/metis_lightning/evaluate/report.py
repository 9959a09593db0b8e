"""What `evaluate` says at its end, beside the tables: speed, and whether a system beats doing nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from metis_lightning.evaluate.significance import paired_difference
from metis_lightning.types import WAVE_RATE

MARGIN = "SIM_margin_"
"""Start of the columns that hold the similarity to the target minus that to the interferer."""


def report(rows: Sequence[dict[str, Any]], systems: Sequence[str]) -> list[str]:
    """Return lines on each system: its speed, and its similarity margin against that of `input`."""
    lines = [_speed(rows, system) for system in systems]
    for test_set in dict.fromkeys(row["test_set"] for row in rows):
        part = [row for row in rows if row["test_set"] == test_set]
        if any(row["system"] == "input" for row in part) and any(
            name.startswith(MARGIN) for name in part[0]["metrics"]
        ):
            lines += [margin_gain(part, system) for system in systems if system not in ("input", "target")]
    return lines


def real_time_factor(rows: Iterable[dict[str, Any]], system: str) -> float | None:
    """Return the seconds that a system took for a second of its speech, over all its rows; None if it is not known."""
    own = [row for row in rows if row["system"] == system and row["seconds"] is not None and row["n_samples"]]
    samples = sum(row["n_samples"] for row in own)
    return sum(row["seconds"] for row in own) * WAVE_RATE / samples if samples else None


def _speed(rows: Sequence[dict[str, Any]], system: str) -> str:
    factor = real_time_factor(rows, system)
    return f"{system}: " + ("its speed is not known" if factor is None else f"real-time factor {factor:.2f}")


def margin_gain(rows: Sequence[dict[str, Any]], system: str) -> str:
    """Return a line on how much further than `input` a system is from the interferer and towards the target.

    It has two intervals: over speakers, what to expect of other voices; over utterances, what to expect of these.
    """
    metric = next((name for name in rows[0]["metrics"] if name.startswith(MARGIN)), None)
    if metric is None:
        return f"{system} - input: no {MARGIN}* was measured"
    gain = paired_difference(rows, metric, system, "input")
    where = f"{system} - input on {rows[0]['test_set']}, {metric}"
    if gain["mean"] is None:
        return f"{where}: no utterance has both"
    alone = paired_difference([{**row, "speaker": None} for row in rows], metric, system, "input")
    intervals = [
        f"{over} {estimate['ci95_low']:+.3f} to {estimate['ci95_high']:+.3f}"
        for over, estimate in (("speakers", gain), ("utterances", alone))
        if estimate["ci95_low"] is not None
    ]
    between = f" (95% over {', over '.join(intervals)})" if intervals else ""
    return f"{where}: {gain['mean']:+.3f}{between}, n {gain['n']}"
