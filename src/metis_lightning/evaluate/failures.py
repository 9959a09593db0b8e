"""Whether too much failed for a run to count."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from metis_lightning.errors import UserError


def check_failures(rows: Iterable[dict[str, Any]], most: float) -> None:
    """Refuse results in which some metric of a system on a test set failed more often than allowed.

    What a test set cannot have (no transcript, a language that the recogniser does not know) is no failure; see
    `failed` in the rows.

    Args:
        rows: of a whole run.
        most: the share of rows that may lack a value, from 0 to 1.

    Raises:
        UserError: naming every such system and test set, with the metric that failed most often, and why.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row["test_set"], row["system"]].append(row)
    lines = [line for (test_set, system), part in groups.items() if (line := _too_many(test_set, system, part, most))]
    if lines:
        raise UserError(f"{'; '.join(lines)}; more than --max-failed-share {most:g}. All rows and tables are written")


def _too_many(test_set: str, system: str, rows: list[dict[str, Any]], most: float) -> str | None:
    counts = Counter(name for row in rows for name in row["failed"])
    if not counts:
        return None
    name, count = counts.most_common(1)[0]
    if count <= most * len(rows):
        return None
    reasons = Counter(row["error"][name] for row in rows if name in row["failed"])
    why = ", ".join(f"{number} × {reason}" for reason, number in sorted(reasons.items()))
    return f"{system} on {test_set}: {count} of {len(rows)} without {name} ({why})"
