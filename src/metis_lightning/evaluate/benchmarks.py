"""The paper's tables as data: `evaluation/benchmarks/*.yaml`, one file a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metis_lightning.errors import UserError


@dataclass(frozen=True)
class Ours:
    """Which of our results stand above the paper's rows: those of `task`.

    `first` names the systems that come first, in this order; the others follow by name.
    """

    task: str
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """One table of the paper.

    `rows` are the paper's, as printed: `test_set, system, metrics`, and where given `task` and `train_data`. A metric
    is a number, null, or `{mean, ci95}`. `measured_with` says what the paper measured with. `name` is the file's stem.
    """

    name: str
    table: int
    title: str
    source: str
    measured_with: str
    rows: tuple[dict[str, Any], ...]
    ours: Ours | None = None


def read_benchmarks(folder: Path) -> list[Benchmark]:
    """Read every table of a folder, in the order of their numbers.

    Raises:
        UserError: there is no such folder, no table in it, or a file that is not of this form.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise UserError(
            f"no *.yaml with the paper's rows in {folder}; give --benchmarks, or run from the project's folder"
        )
    return sorted((_read(path) for path in paths), key=lambda benchmark: benchmark.table)


def _read(path: Path) -> Benchmark:
    """Read one table."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        ours = fields.pop("ours", None)
        if ours is not None:
            ours = Ours(ours["task"], tuple(ours.get("first", ())))
        return Benchmark(name=path.stem, rows=tuple(fields.pop("rows")), ours=ours, **fields)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a table of the paper: {error}") from error
