"""Finished runs on disk as results: what one system reached on one test set, and under which protocol."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.columns import Column
from metis_lightning.evaluate.results.protocol import fingerprint
from metis_lightning.evaluate.results.run_files import PROTOCOL, ROWS, SUMMARY, read_rows, unique
from metis_lightning.evaluate.results.stats import items_of, metrics_of, summary_of
from metis_lightning.safe_parsing import load_json

# Parts of a protocol that may differ between the rows of one table: they tell rows apart, not columns. Seeds are the
# systems' own; runs of earlier versions have them beside.
_PER_RUN = ("systems", "seeds")

# Parts that have an entry for each test set.
_PER_TEST_SET = {"ids", "trials", "sizes", "test_sets"}

_SPEED = "RTF"
"""A column that means nothing without device and threads, which rows do not say: it is in no table."""


@dataclass(frozen=True)
class Protocol:
    """What decides the numbers of one test set: a run's protocol without its systems and its other test sets.

    `mark` is its fingerprint; `settings` are those that can be said in a line. `run_fingerprint` is that of the run's
    whole `protocol.json`. `size` is how many items the whole test set has, None if a run of an earlier version does not
    say.
    """

    mark: str
    settings: Mapping[str, Any]
    run_fingerprint: str
    size: int | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any], test_set: str) -> Protocol:
        """Return the protocol of one test set of a run, whose `protocol.json` is `found`."""
        decides = {key: value for key, value in found.items() if key not in _PER_RUN}
        for key in _PER_TEST_SET & found.keys():
            lists = found[key]
            decides[key] = {test_set: lists.get(test_set)} if isinstance(lists, dict) else lists
        settings = {key: value for key, value in found.items() if isinstance(value, (str, int, float))}
        for name in ("fingerprint", "seeds"):
            settings.pop(name, None)
        settings |= _variant(found.get("test_sets"), test_set)
        metrics = found.get("metrics")
        if isinstance(metrics, dict) and isinstance(metrics.get("protocol"), str):
            settings["metrics"] = metrics["protocol"]
        size = found.get("sizes", {}).get(test_set)
        return cls(fingerprint(decides), settings, str(found.get("fingerprint", "unknown")), size)


@dataclass(frozen=True)
class Result:
    """What a system reached on a test set in a run, which lies in `folder`: the summary of its rows, and the rows.

    `identity` is what the run's protocol says of the system: the hash of its weights, its settings.
    """

    folder: Path
    task: str
    test_set: str
    system: str
    metrics: Mapping[str, dict[str, Any]]
    rows: Sequence[dict[str, Any]]
    protocol: Protocol
    identity: Mapping[str, Any]

    @property
    def run(self) -> str:
        """The name of the run."""
        return self.folder.name

    @property
    def count(self) -> int:
        """How many utterances there are; with several seeds each has several rows."""
        return len(items_of(self.rows))

    @property
    def is_limited(self) -> bool:
        """Whether the run left a part of the test set out."""
        return self.protocol.size is not None and self.count < self.protocol.size

    @property
    def count_text(self) -> str:
        """The number of utterances, and of how many they are if not all: "8 of 6,000"."""
        return f"{self.count:,} of {self.protocol.size:,}" if self.is_limited else str(self.count)


def _variant(test_sets: object, test_set: str) -> dict[str, Any]:
    """Return what a protocol says in clear of a test set's variant; not its hashes and sizes."""
    said = test_sets.get(test_set) if isinstance(test_sets, dict) else None
    hidden = {"reader", "trials", "texts", "audio", "samples"}
    return {key: value for key, value in said.items() if key not in hidden} if isinstance(said, dict) else {}


def find_results(results_dir: Path) -> list[Result]:
    """Return the results of the finished runs of a folder, by the runs' names; say which are left out.

    A result that another run with the same protocol has too, to the last digit, stands once.

    Args:
        results_dir: one folder a run, as `evaluate` writes them, or one run.

    Raises:
        UserError: there is no such folder, or a run's file is not of the form that `evaluate` writes.
    """
    if not results_dir.is_dir():
        raise UserError(f"no folder of results {results_dir}: run `python -m metis_lightning evaluate` first")
    found: dict[tuple[str, ...], Result] = {}
    own = results_dir / PROTOCOL
    for path in [own] if own.is_file() else sorted(results_dir.glob(f"*/{PROTOCOL}")):
        if not (path.parent / SUMMARY).is_file():
            print(f"metis-lightning: {path.parent} is left out: the run is not finished", file=sys.stderr)
            continue
        for result in read_results(path.parent):
            content = json.dumps(result.metrics, sort_keys=True)
            found.setdefault((result.task, result.test_set, result.system, result.protocol.mark, content), result)
    return list(found.values())


def read_results(folder: Path) -> list[Result]:
    """Return the results of one run.

    Raises:
        UserError: a file is not of the form that `evaluate` writes.
    """
    try:
        protocol = load_json((folder / PROTOCOL).read_bytes())
        by_group = defaultdict(list)
        for row in unique({folder / ROWS: read_rows(folder)}).values():
            by_group[row["task"], row["test_set"], row["system"]].append(row)
        return [
            Result(
                folder,
                *key,
                {name: summary_of(part, name) for name in metrics_of(part) if Column.of(name).quantity != _SPEED},
                part,
                Protocol.of(protocol, key[1]),
                _identity(protocol, key[2]),
            )
            for key, part in sorted(by_group.items())
        ]
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{folder}: not the results of a run ({type(error).__name__}: {error})") from error


def _identity(protocol: Mapping[str, Any], system: str) -> Mapping[str, Any]:
    """Return what a protocol says of a system."""
    systems = protocol.get("systems")
    found = systems.get(system) if isinstance(systems, dict) else None
    return found if isinstance(found, dict) else {}
