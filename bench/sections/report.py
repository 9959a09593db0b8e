"""What a section finds: figures, and verdicts against thresholds, a line of a file each, so that a crash loses none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PASS, FAIL, SKIP, FIGURE = "PASS", "FAIL", "SKIP", "figure"


@dataclass(frozen=True)
class Line:
    """One line of the table.

    threshold: what a verdict is against; empty for a figure.
    """

    section: str
    what: str
    value: str
    verdict: str
    threshold: str = ""


@dataclass(frozen=True)
class Report:
    """Lines of one section, appended to the file of all.

    tiny: whether sizes are tiny, at which figures say nothing.
    """

    path: Path
    section: str
    device: str
    tiny: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA one."""
        return self.device.startswith("cuda")

    def figure(self, what: str, value: str) -> None:
        """Note what was measured."""
        self._add(what, value, FIGURE)

    def most(self, what: str, value: float, limit: float) -> None:
        """Judge what must not be above a limit; what is not a number is."""
        self._add(what, f"{value:.4g}", PASS if value <= limit else FAIL, f"at most {limit:g}")

    def least(self, what: str, value: float, limit: float) -> None:
        """Judge what must not be below a limit; what is not a number is."""
        self._add(what, f"{value:.4g}", PASS if value >= limit else FAIL, f"at least {limit:g}")

    def failed(self, what: str, reason: str) -> None:
        """Note what went wrong."""
        self._add(what, reason, FAIL)

    def skipped(self, what: str, reason: str) -> None:
        """Note what could not be tried."""
        self._add(what, reason, SKIP)

    def number(self, name: str, value: float) -> None:
        """Keep a number for later sections."""
        with self._numbers.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: value}) + "\n")

    def known(self, name: str) -> float | None:
        """Return a number of an earlier section; None if it was not taken."""
        if not self._numbers.exists():
            return None
        found = [json.loads(line) for line in self._numbers.read_text(encoding="utf-8").splitlines()]
        return next((each[name] for each in reversed(found) if name in each), None)

    @property
    def _numbers(self) -> Path:
        return self.path.with_suffix(".numbers")

    def _add(self, what: str, value: str, verdict: str, threshold: str = "") -> None:
        line = Line(self.section, what, value, verdict, threshold)
        print(f"{line.verdict:6} {line.section}: {what}: {value}{f' ({threshold})' if threshold else ''}", flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")


def lines_of(path: Path) -> list[Line]:
    """Return the lines of a file."""
    return [Line(**json.loads(text)) for text in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(lines: Sequence[Line], head: Sequence[str]) -> str:
    """Return the lines as a Markdown page, after lines of text about the run."""
    rows = [(each.section, each.what, each.value, each.threshold, each.verdict) for each in lines]
    body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    counts = ", ".join(f"{sum(each.verdict == kind for each in lines)} {kind}" for kind in (PASS, FAIL, SKIP))
    titles = ["| section | what | value | threshold | verdict |", "|---|---|---|---|---|"]
    return "\n".join(["# GPU run", "", *head, "", *titles, *body, "", counts, ""])
