"""Runs on disk: the folder that rows are written to, and finished runs as results of systems on test sets."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.protocol import (
    NUM_SHOWN,
    Protocol,
    TestSetProtocol,
    fingerprint,
    protocol_differences,
)
from metis_lightning.evaluate.results.rows import ROWS, ResultRow, RowKey, items_of, merge_rows, read_rows, row_line
from metis_lightning.evaluate.results.summary import Summary, columns_of, summarize_metrics
from metis_lightning.files import atomic_path
from metis_lightning.safe_parsing import load_json

RUN_SUMMARY, PROTOCOL = "summary.json", "protocol.json"

# A quantity that means nothing without device and threads, which rows do not say: it is in no table.
_SPEED = "RTF"


class RunFolder:
    """The folder of a run. Several processes write their rows to files of their own, which are merged in the end.

    Args:
        keys: of every row of the run, in order.
        is_owner: whether to write the protocol, and to merge the rows that another call left.

    Raises:
        UserError: the folder holds rows of another protocol, or `merge` refuses them.
    """

    def __init__(self, folder: Path, protocol: Protocol, keys: Sequence[RowKey], is_owner: bool = True) -> None:
        self.folder, self.protocol, self.keys = folder, protocol, keys
        if (folder / PROTOCOL).is_file():
            self._check()
        if is_owner:
            write_json(folder / PROTOCOL, protocol.to_json())
            self.merge()

    def merge(self, is_whole: bool = False) -> list[ResultRow]:
        """Put the rows of all processes into the run's file, in the order of the run, and return them.

        Raises:
            UserError: a row is not of this run, two of one key differ, or one is missing though `is_whole`.
        """
        parts = sorted(self.folder.glob(f"{ROWS}.*"))
        files = [self.folder / ROWS, *parts]
        merged, expected = merge_rows({path: read_rows(path) for path in files}), set(self.keys)
        if unknown := [key for key in merged if key not in expected]:
            raise UserError(
                f"{', '.join(map(str, files))}: a row for {unknown[0]}, which is not of this run; give another --out, "
                "or remove the folder"
            )
        # Rows of other processes are still to come, unless all are done.
        missing = [key for key in self.keys if key not in merged]
        if is_whole and missing:
            raise UserError(f"{self.folder}: {len(missing)} rows are missing, first {missing[0]}; run it again")
        rows = [merged[key] for key in self.keys if key in merged]
        with atomic_path(self.folder / ROWS) as temporary:
            temporary.write_text("".join(map(row_line, rows)), encoding="utf-8")
        for part in parts:
            part.unlink()
        return rows

    def _check(self) -> None:
        """Refuse a folder whose rows were made under another protocol."""
        path, advice = self.folder / PROTOCOL, "give another --out, or remove the folder"
        try:
            old = Protocol.from_json(load_json(path.read_bytes()))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: {error}; {advice}") from error
        if fingerprint(old.content) != fingerprint(self.protocol.content):
            lines = protocol_differences(old.content, self.protocol.content)
            more = f" and {len(lines) - NUM_SHOWN} more" if len(lines) > NUM_SHOWN else ""
            different = f"{'; '.join(lines[:NUM_SHOWN])}{more}"
            raise UserError(f"{self.folder}: it holds results of another protocol (different: {different}); {advice}")


def write_json(path: Path, content: object) -> None:
    """Write plain data as indented JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Result:
    """A system on a test set in a run: the summaries of its metrics by name, and its rows.

    `identity` is what the run's protocol says of the system: the hash of its weights, its settings.
    """

    folder: Path
    task: str
    test_set: str
    system: str
    metrics: Mapping[str, Summary]
    rows: Sequence[ResultRow]
    protocol: TestSetProtocol
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
        """Whether the run left a part of the test set out, as far as its protocol says."""
        return self.count < (self.protocol.size or 0)

    @property
    def count_text(self) -> str:
        """The number of utterances, and of how many they are if not all: "8 of 6,000"."""
        return f"{self.count:,} of {self.protocol.size:,}" if self.is_limited else str(self.count)


def metric_names(results: Sequence[Result]) -> list[str]:
    """Return the metrics that any of the results has, in the order of first appearance."""
    return list(dict.fromkeys(name for result in results for name in result.metrics))


def find_results(results_dir: Path) -> list[Result]:
    """Return the results of the finished runs of a folder, by the runs' names; say which are left out.

    A result that another run with the same protocol has too, to the last digit, stands once.

    Raises:
        UserError: there is no such folder, or a run's file is not of the form that `evaluate` writes.
    """
    if not results_dir.is_dir():
        raise UserError(f"no folder of results {results_dir}: run `python -m metis_lightning evaluate` first")
    # Controls are made anew with every run, and stand once if nothing has changed.
    unique: dict[tuple[str, ...], Result] = {}
    own = results_dir / PROTOCOL
    for path in [own] if own.is_file() else sorted(results_dir.glob(f"*/{PROTOCOL}")):
        if not (path.parent / RUN_SUMMARY).is_file():
            print(f"metis-lightning: {path.parent} is left out: the run is not finished", file=sys.stderr)
            continue
        for result in read_results(path.parent):
            content = json.dumps([summary.to_json() for summary in result.metrics.values()])
            unique.setdefault((result.task, result.test_set, result.system, result.protocol.mark, content), result)
    return list(unique.values())


def read_results(folder: Path) -> list[Result]:
    """Return the results of one run.

    Raises:
        UserError: a file is not of the form that `evaluate` writes.
    """
    try:
        protocol = Protocol.from_json(load_json((folder / PROTOCOL).read_bytes()))
        summary = folder / RUN_SUMMARY
        columns = columns_of(load_json(summary.read_bytes())) if summary.is_file() else {}
        groups: dict[tuple[str, str, str], list[ResultRow]] = defaultdict(list)
        for row in merge_rows({folder / ROWS: read_rows(folder)}).values():
            groups[row.task, row.test_set, row.system].append(row)
        results = []
        for (task, test_set, system), rows in sorted(groups.items()):
            metrics = summarize_metrics(rows, columns)
            shown = {name: summary for name, summary in metrics.items() if summary.column.quantity != _SPEED}
            protocol_there, identity = protocol.of_test_set(test_set), protocol.identity(system)
            results.append(Result(folder, task, test_set, system, shown, rows, protocol_there, identity))
        return results
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{folder}: not the results of a run ({type(error).__name__}: {error})") from error
