"""The end of `evaluate`: speed, whether a system beats doing nothing, and whether too much failed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.estimates import PairedDifference, compare_rows, few_notes
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.metrics.column import Column
from metis_lightning.types import WAVE_RATE

# The similarity to the target minus that to the interferer.
_MARGIN = "SIM_margin"


@dataclass(frozen=True)
class Machine:
    """Where a run's speech was made: on which device, by how many processes of how many threads."""

    device: str
    threads: int
    processes: int

    def __str__(self) -> str:
        processes = f"{self.processes} process{'' if self.processes == 1 else 'es'}"
        return f"on {self.device}, {processes}, {self.threads} thread{'' if self.threads == 1 else 's'} each"


def report_lines(
    rows: Sequence[ResultRow], systems: Sequence[str], machine: Machine, columns: Mapping[str, Column]
) -> list[str]:
    """Return lines on each system: its speed, and its similarity margin against that of `input`."""
    lines = []
    for system in systems:
        factor = real_time_factor(rows, system, machine.processes)
        speed = f"real-time factor {factor or 0:.2f} ({machine}, without the first item, scoring beside it)"
        lines.append(f"{system}: {'its speed is not known' if factor is None else speed}")
    gains: list[PairedDifference] = []
    for test_set in dict.fromkeys(row.test_set for row in rows):
        part = [row for row in rows if row.test_set == test_set]
        column = margin_column(columns[name] for name in part[0].metrics if name in columns)
        if column is None or all(row.system != "input" for row in part):
            continue
        # The target bounds what can be reached; it is no system to compare.
        for system in (name for name in systems if name not in ("input", "target")):
            line, gain = margin_gain(part, system, column)
            lines.append(line)
            gains.append(gain)
    return [*lines, *few_notes(gains)]


def real_time_factor(rows: Iterable[ResultRow], system: str, processes: int = 1) -> float | None:
    """Return the seconds that a system took for a second of its speech; None if it is not known.

    The first item of each process is left out: a device warms up with it.
    """
    own = [(row.seconds, row) for row in rows if row.system == system and row.seconds is not None and row.n_samples]
    warm = own[processes:]
    spoken = sum(row.n_samples / (row.sample_rate or WAVE_RATE) for _, row in warm)
    return sum(seconds for seconds, _ in warm) / spoken if spoken else None


def margin_column(columns: Iterable[Column]) -> Column | None:
    """Return the column of the similarity margin; None if it is not measured."""
    return next((column for column in columns if column.quantity == _MARGIN), None)


def margin_gain(rows: Sequence[ResultRow], system: str, column: Column) -> tuple[str, PairedDifference]:
    """Return how much further than `input` a system is from the interferer and towards the target, also as a line.

    It has two intervals: over speakers, what to expect of other voices; over utterances, what to expect of these.
    """
    own, base = ([row for row in rows if row.system == name] for name in (system, "input"))
    gain = compare_rows(own, base, column)
    where = f"{system} - input on {rows[0].test_set}, {column.name}"
    if gain.mean is None:
        return f"{where}: no utterance has both", gain
    intervals = {f"{gain.n} utterances": (gain.utterances_ci95_low, gain.utterances_ci95_high)}
    if gain.clusters == "speakers":
        intervals = {f"{gain.n_clusters} speakers": (gain.ci95_low, gain.ci95_high), **intervals}
    bounds = [
        f"{count}: too few" if low is None else f"{count} {low:+.3f} to {high:+.3f}"
        for count, (low, high) in intervals.items()
    ]
    of_all = f" of {gain.n + gain.n_missing}" if gain.n_missing else ""
    return f"{where}: {gain.mean:+.3f} (95% over {', over '.join(bounds)}), n {gain.n}{of_all}", gain


def check_failures(rows: Iterable[ResultRow], max_share: float) -> None:
    """Refuse results in which some metric of a system on a test set failed more often than allowed.

    `max_share` of a run's rows may lack a value, from 0 to 1. What a test set cannot have (no transcript, a language
    that the recogniser does not know) is no failure; see `failed` in the rows.

    Raises:
        UserError: naming every such system and test set, with the metric that failed most often, and why.
    """
    groups: dict[tuple[str, str], list[ResultRow]] = defaultdict(list)
    for row in rows:
        groups[row.test_set, row.system].append(row)
    lines = []
    for (test_set, system), part in groups.items():
        for name, count in Counter(name for row in part for name in row.failed).most_common(1):
            if count > max_share * len(part):
                reasons = Counter(row.error[name] for row in part if name in row.failed)
                why = ", ".join(f"{number} × {reason}" for reason, number in sorted(reasons.items()))
                lines.append(f"{system} on {test_set}: {count} of {len(part)} without {name} ({why})")
    if lines:
        raise UserError(
            f"{'; '.join(lines)}; more than --max-failed-share {max_share:g}. All rows and tables are written"
        )
