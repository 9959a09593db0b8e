"""What `evaluate` says at its end, beside the tables: speed, and whether a system beats doing nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.results.intervals import few_notes
from metis_lightning.evaluate.results.significance import paired_difference
from metis_lightning.types import WAVE_RATE

MARGIN = "SIM_margin_"
"""Start of the columns that hold the similarity to the target minus that to the interferer."""


@dataclass(frozen=True)
class Machine:
    """Where a run's speech was made: on which device, by how many processes of how many threads."""

    device: str
    threads: int
    processes: int

    def __str__(self) -> str:
        """Return it for a line of text."""
        return (
            f"on {self.device}, {_count(self.processes, 'process', 'processes')}, {_count(self.threads, 'thread')} each"
        )


def report(rows: Sequence[dict[str, Any]], systems: Sequence[str], machine: Machine) -> list[str]:
    """Return lines on each system: its speed, and its similarity margin against that of `input`."""
    lines = [_speed(rows, system, machine) for system in systems]
    gains = []
    for test_set in dict.fromkeys(row["test_set"] for row in rows):
        part = [row for row in rows if row["test_set"] == test_set]
        if any(row["system"] == "input" for row in part) and any(
            name.startswith(MARGIN) for name in part[0]["metrics"]
        ):
            gains += [_gain(part, system) for system in systems if system not in ("input", "target")]
    return [*lines, *(line for line, _ in gains), *few_notes(gain for _, gain in gains if gain is not None)]


def real_time_factor(rows: Iterable[dict[str, Any]], system: str, processes: int = 1) -> float | None:
    """Return the seconds that a system took for a second of its speech; None if it is not known.

    The first item of each process is left out: a device warms up with it.
    """
    own = [row for row in rows if row["system"] == system and row["seconds"] is not None and row["n_samples"]]
    warm = own[processes:]
    spoken = sum(row["n_samples"] / (row.get("sample_rate") or WAVE_RATE) for row in warm)
    return sum(row["seconds"] for row in warm) / spoken if spoken else None


def margin_gain(rows: Sequence[dict[str, Any]], system: str) -> str:
    """Return a line on how much further than `input` a system is from the interferer and towards the target.

    It has two intervals: over speakers, what to expect of other voices; over utterances, what to expect of these.
    """
    return _gain(rows, system)[0]


def _speed(rows: Sequence[dict[str, Any]], system: str, machine: Machine) -> str:
    factor = real_time_factor(rows, system, machine.processes)
    if factor is None:
        return f"{system}: its speed is not known"
    return f"{system}: real-time factor {factor:.2f} ({machine}, without the first item, scoring beside it)"


def _gain(rows: Sequence[dict[str, Any]], system: str) -> tuple[str, dict[str, Any] | None]:
    """Return the line of `margin_gain`, and the comparison that it tells of."""
    metric = next((name for name in rows[0]["metrics"] if name.startswith(MARGIN)), None)
    if metric is None:
        return f"{system} - input: no {MARGIN}* was measured", None
    gain = paired_difference(rows, metric, system, "input")
    where = f"{system} - input on {rows[0]['test_set']}, {metric}"
    if gain["mean"] is None:
        return f"{where}: no utterance has both", None
    over = [_over(gain["n"], "utterances", gain["utterances_ci95_low"], gain["utterances_ci95_high"])]
    if gain["clusters"] == "speakers":
        over.insert(0, _over(gain["n_clusters"], "speakers", gain["ci95_low"], gain["ci95_high"]))
    of_all = f" of {gain['n'] + gain['n_missing']}" if gain["n_missing"] else ""
    return f"{where}: {gain['mean']:+.3f} (95% over {', over '.join(over)}), n {gain['n']}{of_all}", gain


def _over(count: int, clusters: str, low: float | None, high: float | None) -> str:
    """Return an interval with how many clusters it is over."""
    return f"{count} {clusters}: too few" if low is None else f"{count} {clusters} {low:+.3f} to {high:+.3f}"


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
