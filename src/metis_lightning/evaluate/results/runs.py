"""Runs on disk: the protocol that decides their numbers, the folder of their rows, and their results."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.derived import SCORES, with_derived, with_scores
from metis_lightning.evaluate.results.rows import ROWS, ResultRow, RowKey, append_rows, merge_rows, read_rows
from metis_lightning.evaluate.results.summary import Summary, columns_of, summarize
from metis_lightning.files import atomic_path
from metis_lightning.safe_parsing import load_json

RUN_SUMMARY, PROTOCOL = "summary.json", "protocol.json"

# Written down for the reader alone: models, files and rules, which have hashes and names, decide the numbers.
_RECORDED = ("version", "fingerprint")
# Parts that may differ between the rows of one table: they tell rows apart, not columns. Seeds are the systems' own;
# runs of earlier versions have them beside.
_PER_RUN = ("systems", "seeds")
# Parts that have an entry for each test set.
_PER_TEST_SET = {"ids", "trials", "sizes", "test_sets"}
# Hashes and sizes of a test set; the rest says in clear which variant of a corpus it is.
_HASHED = {"reader", "trials", "texts", "audio", "samples"}
# Quantities that stand first in tables: what was said, and by whom.
_FIRST = ("WER", "WER_asr", "CER", "CER_asr", "SIM", "SIM_target", "SIM_margin", "WRONG_VOICE")
# Differences of a protocol, and values of a list, that a message shows.
_NUM_SHOWN = 4


@dataclass(frozen=True)
class TestSetProtocol:
    """All that decides the numbers on one test set: a run's protocol without its systems and its other test sets."""

    __test__ = False  # not a pytest class
    mark: str
    settings: Mapping[str, Any]
    run_fingerprint: str
    # Of the whole test set; runs of earlier versions do not say.
    size: int | None = None


@dataclass(frozen=True)
class Protocol:
    """All that decides the numbers of a run: the content of its `protocol.json`, of whichever version wrote it."""

    content: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Protocol:
        """Read the protocol of a run's folder; TypeError or ValueError if the file is none."""
        content = load_json((folder / PROTOCOL).read_bytes())
        if not isinstance(content, dict):
            raise TypeError("not the protocol of a run")
        return cls(content)

    @property
    def fingerprint(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of what decides.

        >>> Protocol({"task": "se", "packages": {"numpy": "2.4.5"}}).fingerprint == Protocol({"task": "se"}).fingerprint
        True
        """
        text = json.dumps(_deciding(self.content, _RECORDED), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def identity(self, system: str) -> Mapping[str, Any]:
        """Return what decides a system's output; nothing if the protocol does not say."""
        systems = self.content.get("systems")
        identity = systems.get(system) if isinstance(systems, dict) else None
        return identity if isinstance(identity, dict) else {}

    def of_test_set(self, test_set: str) -> TestSetProtocol:
        """Return what decides the numbers on one test set."""
        content = self.content
        decides = {key: value for key, value in content.items() if key not in _PER_RUN}
        for key in _PER_TEST_SET & content.keys():
            lists = content[key]
            decides[key] = {test_set: lists.get(test_set)} if isinstance(lists, dict) else lists
        # Lists and records do not fit in a line of text; they are in the mark, the fingerprint.
        plain = {key: value for key, value in content.items() if isinstance(value, (str, int, float))}
        settings = {key: value for key, value in plain.items() if key not in ("fingerprint", "seeds")}
        test_sets = content.get("test_sets")
        variant = test_sets.get(test_set) if isinstance(test_sets, dict) else None
        if isinstance(variant, dict):
            settings |= {key: value for key, value in variant.items() if key not in _HASHED}
        metrics = content.get("metrics")
        if isinstance(metrics, dict) and isinstance(metrics.get("protocol"), str):
            settings["metrics"] = metrics["protocol"]
        size = content.get("sizes", {}).get(test_set)
        mark, run_fingerprint = Protocol(decides).fingerprint, str(content.get("fingerprint", "unknown"))
        return TestSetProtocol(mark, settings, run_fingerprint, size)


def protocol_differences(old: object, new: object, where: str = "") -> Iterator[str]:
    """Yield the values that two protocols' contents differ in, as "where: old -> new".

    >>> old, new = {"test_sets": {"a": {"mode": "min"}}}, {"test_sets": {"a": {"mode": "max"}}, "task": "se"}
    >>> list(protocol_differences(old, new))
    ['task: nothing -> se', 'test_sets.a.mode: min -> max']
    """
    hidden = () if where else _RECORDED
    old, new = _deciding(old, hidden), _deciding(new, hidden)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from protocol_differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from protocol_differences(*pair, f"{where}[{number}]")
    elif old != new:
        yield f"{where}: {_shown(old)} -> {_shown(new)}"


def _deciding(value: object, hidden: tuple[str, ...] = ()) -> object:
    """Return a part of a protocol without versions of packages, at any depth."""
    if isinstance(value, Mapping):
        return {key: _deciding(part) for key, part in value.items() if key not in ("packages", *hidden)}
    return [_deciding(part) for part in value] if isinstance(value, (list, tuple)) else value


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)) and len(value) > _NUM_SHOWN:
        return f"{len(value)} values"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text


class RunFolder:
    """The folder of a run, of rows by `keys` in this order; its processes write to files of their own until the end.

    The owner writes the protocol, and merges what another call left. A `UserError` if the rows are of another protocol.
    """

    def __init__(self, folder: Path, protocol: Protocol, keys: Sequence[RowKey], is_owner: bool = True) -> None:
        self.folder, self.keys = folder, keys
        advice = "give another --out, or remove the folder"
        if (folder / PROTOCOL).is_file():
            try:
                old = Protocol.read(folder)
            except (TypeError, ValueError) as error:
                raise UserError(f"{folder / PROTOCOL}: {error}; {advice}") from error
            if old.fingerprint != protocol.fingerprint:
                lines = list(protocol_differences(old.content, protocol.content))
                more = f" and {len(lines) - _NUM_SHOWN} more" if len(lines) > _NUM_SHOWN else ""
                different = f"{'; '.join(lines[:_NUM_SHOWN])}{more}"
                raise UserError(f"{folder}: it holds results of another protocol (different: {different}); {advice}")
        if is_owner:
            write_json(folder / PROTOCOL, {**protocol.content, "fingerprint": protocol.fingerprint})
            self.merge()

    def merge(self, is_whole: bool = False) -> list[ResultRow]:
        """Merge all processes' rows into the run's file. A `UserError` if one is foreign, missing or double."""
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
            append_rows(temporary, *rows)
        for part in parts:
            part.unlink()
        return rows


def write_json(path: Path, content: object) -> None:
    """Write plain data as indented JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Result:
    """A system on a test set in a run; `identity` is what its protocol says of the system: weights, settings."""

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
        return len({row.item for row in self.rows})

    @property
    def is_limited(self) -> bool:
        """Whether the run left a part of the test set out, as far as its protocol says."""
        return self.count < (self.protocol.size or 0)

    @property
    def count_text(self) -> str:
        """The number of utterances, and of how many they are if not all: "8 of 6,000"."""
        return f"{self.count:,} of {self.protocol.size:,}" if self.is_limited else str(self.count)


def metric_names(results: Sequence[Result]) -> list[str]:
    """Return the metrics that any of the results has: words and voices first, then in the order of appearance."""
    quantities = {name: summary.column.quantity for result in results for name, summary in result.metrics.items()}
    rank = {quantity: index for index, quantity in enumerate(_FIRST)}
    return sorted(quantities, key=lambda name: rank.get(quantities[name], len(rank)))


def find_results(results_dir: Path) -> list[Result]:
    """Return the results of the finished runs of a folder, by the runs' names. A `UserError` as of `read_results`."""
    if not results_dir.is_dir():
        raise UserError(f"no folder of results {results_dir}: run `python -m metis_lightning evaluate` first")
    # Controls are made anew with every run, and stand once if nothing has changed to the last digit.
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
    """Return the results of one run. A `UserError` if a file is not of the form that `evaluate` writes."""
    try:
        protocol = Protocol.read(folder)
        summary = folder / RUN_SUMMARY
        columns = columns_of(load_json(summary.read_bytes())) if summary.is_file() else {}
        rows, imported, hashes = with_scores([*merge_rows({folder / ROWS: read_rows(folder)}).values()], folder)
        rows, columns = with_derived(rows, {**columns, **imported})
        results = []
        for group in summarize(rows, columns):
            # Speed means nothing without device and threads, which rows do not say: it is in no table.
            shown = {name: each for name, each in group.metrics.items() if each.column.quantity != "RTF"}
            there, identity = protocol.of_test_set(group.test_set), protocol.identity(group.system)
            if group.system in hashes:
                identity = {**identity, SCORES: hashes[group.system]}
            place = (folder, group.rows[0].task, group.test_set, group.system)
            results.append(Result(*place, shown, group.rows, there, identity))
        return sorted(results, key=lambda result: (result.task, result.test_set, result.system))
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{folder}: not the results of a run ({type(error).__name__}: {error})") from error
