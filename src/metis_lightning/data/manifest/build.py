"""Builds a manifest from a corpus: in pieces, over processes and jobs, so that it can be stopped anywhere and rerun.

Beside `M.jsonl` stand `M.faults.jsonl`, what was left out and why, `M.summary.json`, counts and a checksum, and
`M.parts/`, the finished pieces, from which a rerun goes on; they may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from metis_lightning.child_processes import end_with_parent
from metis_lightning.data.manifest.records import FAULTS, PARTS, SCHEMA, SUMMARY, parse_row
from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard
from metis_lightning.errors import UserError
from metis_lightning.files import LOCK, atomic_path, digest64, locked, printable
from metis_lightning.progress import Progress


@dataclass(frozen=True)
class BuildOptions:
    """Where a manifest (`*.jsonl`) is written, and by how many processes.

    shard: this job, counted from 0, and the number of jobs that share the work.
    max_faults: the largest share of faulty utterances, and of broken archives, that may be left out.
    """

    out: Path
    workers: int = 1
    shard: tuple[int, int] = (0, 1)
    max_faults: float = 0.0


@dataclass
class ManifestSummary:
    """What a manifest holds: counts, hours, and what was left out."""

    utterances: int = 0
    hours: float = 0.0
    speakers: int = 0
    languages: dict[str, float] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    sample_rates: Counter[str] = field(default_factory=Counter)
    channels: Counter[str] = field(default_factory=Counter)
    frame_rates: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken_archives: int = 0
    archives: int = 0
    bytes: int = 0
    sha256: str = ""

    def add(self, row: Row) -> None:
        """Count an utterance by its line."""
        hours, language = row["seconds"] / 3600, row["language"]
        self.utterances += 1
        self.hours += hours
        self.languages[language] = self.languages.get(language, 0.0) + hours
        self.splits[row["split"]] += 1
        self.sample_rates[str(row["sample_rate"])] += 1
        self.channels[str(row.get("channels", 1))] += 1
        if "frame_rate" in row:
            self.frame_rates[str(row["frame_rate"])] += 1

    @property
    def fault_share(self) -> float:
        """The share of utterances that are faulty, or of archives that are broken, whichever is larger."""
        single = self.faults.total() - self.broken_archives
        utterances = single / max(1, single + self.utterances)
        return max(utterances, self.broken_archives / max(1, self.archives))


def build_manifest(scan: CorpusScan, options: BuildOptions) -> ManifestSummary | None:
    """Scan this job's share of a corpus; write the manifest and return what it holds, or None if other jobs go on.

    A UserError if nothing is there, or, with the list of faults written, more is faulty than `max_faults`.
    """
    shards = scan.shards()
    if not shards:
        raise UserError(f"{scan.root}: nothing to prepare; looked for {scan.layout}")
    number, jobs = options.shard
    folder = options.out.with_suffix(PARTS)
    # Jobs that share the work share the folder; each piece of it has one of them.
    with locked(folder, shared=jobs > 1), locked(folder, f"{LOCK}-{number}-of-{jobs}"):
        # A name that changes with the piece, the options and the schema.
        identities = [repr((SCHEMA, scan, shard.name, shard.stamp)) for shard in shards]
        parts = [folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.jsonl" for text in identities]
        if jobs == 1:
            # Pieces of files that have changed or gone, and what a killed run has half written of ours.
            own = {part.stem for part in parts}
            for path in folder.glob("*.jsonl"):
                is_temporary = path.name.startswith(".")
                if path.name.split(".")[1] in own if is_temporary else path.stem not in own:
                    path.unlink()
        todo = [pair for pair in list(zip(shards, parts, strict=True))[number::jobs] if not pair[1].is_file()]
        faults, hours = 0, 0.0
        with Progress("prepare", "pieces", len(todo)) as progress:
            for seconds, count in _scan_pieces(scan, todo, options.workers):
                hours, faults = hours + seconds / 3600, faults + count
                progress.step(f"{hours:.1f} h, {faults} faults")
        if missing := sum(not part.is_file() for part in parts):
            print(f"job {number}/{jobs} is done; {missing} of {len(parts)} pieces are left to other jobs")
            return None
        return _merge(parts, options)


def _scan_pieces(scan: CorpusScan, todo: Sequence[tuple[Shard, Path]], workers: int) -> Iterator[tuple[float, int]]:
    if workers == 1 or len(todo) < 2:
        for shard, part in todo:
            # Only one process may draw a bar for what it has in hand.
            with Progress(shard.name, "utterances", leave=False) as progress:
                yield _scan_shard(scan, shard, part, progress.step)
        return
    # Spawned: a fork would inherit the threads of a remote file system in an unknown state.
    context = multiprocessing.get_context("spawn")
    # At Ctrl-C workers die at once; what they had begun has no final name yet.
    pool = ProcessPoolExecutor(workers, context, initializer=end_with_parent, initargs=(signal.SIG_DFL,))
    waiting, running = iter(todo), set[Future[tuple[float, int]]]()
    try:
        # A few at a time, so that stopping does not wait for all of them.
        while running := running | {
            pool.submit(_scan_shard, scan, *p) for p in islice(waiting, workers - len(running))
        }:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that scans was killed, perhaps for want of memory; run again with fewer --workers (what was "
            "done is kept)"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _scan_shard(
    scan: CorpusScan, shard: Shard, part: Path, step: Callable[[], None] | None = None
) -> tuple[float, int]:
    """Write a piece's rows and faults, calling `step` at each; return its seconds and the number of faults."""
    seconds, faults = 0.0, 0
    with atomic_path(part) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in scan.scan(shard):
            if step is not None:
                step()
            if not isinstance(row, Fault):
                row = _check_row(row, scan.root, shard.name)
            if isinstance(row, Fault):
                faults += 1
                # Names of files may be no UTF-8, and a file can hold nothing else.
                texts = {key: printable(getattr(row, key)) for key in ("where", "kind", "detail")}
                _write_line(file, {"fault": {**asdict(row), **texts}})
            else:
                seconds += row["seconds"]
                _write_line(file, row)
    return seconds, faults


def _check_row(row: Row, root: str, where: str) -> Row | Fault:
    place = f"{where}/{row.get('id')}"
    try:
        utterance = parse_row(row, root, place)
        json.dumps(row, ensure_ascii=False).encode()
    except UserError as error:
        return Fault(place, "wrong field", str(error))
    except UnicodeEncodeError:
        return Fault(place, "name or text is not UTF-8", f"{row['path']}: rename it, or save the text anew")
    return {**row, "text": utterance.text, "language": utterance.language}


def _merge(parts: Sequence[Path], options: BuildOptions) -> ManifestSummary:
    summary, out, listed = ManifestSummary(archives=len(parts)), options.out, options.out.with_suffix(FAULTS)
    speakers, digest = array("q"), hashlib.sha256()
    # The manifest gets its name only if the checks below let it; the list of faults does before.
    with atomic_path(out) as manifest:
        with (
            atomic_path(listed) as faults,
            faults.open("w", encoding="utf-8") as fault_file,
            manifest.open("w", encoding="utf-8", newline="\n") as file,
        ):
            for row in _unique_rows(parts):
                if isinstance(row, Fault):
                    summary.faults[row.kind] += 1
                    summary.broken_archives += row.archive
                    _write_line(fault_file, asdict(row))
                else:
                    summary.add(row)
                    speakers.append(digest64(row["speaker"]))
                    digest.update(_write_line(file, row))
        summary.speakers = len(np.unique(np.frombuffer(speakers, dtype=np.int64))) if speakers else 0
        summary.sha256, summary.bytes = digest.hexdigest(), manifest.stat().st_size
        if summary.fault_share > options.max_faults:
            kinds = ", ".join(f"{count} {kind}" for kind, count in summary.faults.most_common())
            raise UserError(
                f"{kinds}: a share of {summary.fault_share:.4%} is faulty, more than --max-faults "
                f"{options.max_faults:g}; see {listed}, repair the corpus and run again, or accept the share with "
                "--max-faults"
            )
        if not summary.utterances:
            raise UserError(f"no utterance is left for {out}; see {listed}")
        with atomic_path(out.with_suffix(SUMMARY)) as temporary:
            temporary.write_text(json.dumps({"schema": SCHEMA, **vars(summary)}, indent=2) + "\n", encoding="utf-8")
    return summary


def _read_parts(parts: Sequence[Path]) -> Iterator[Row | Fault]:
    for part in parts:
        with part.open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                yield Fault(**row["fault"]) if "fault" in row else row


def _unique_rows(parts: Sequence[Path]) -> Iterator[Row | Fault]:
    """Yield the rows of all pieces, every utterance whose id was there before as a fault."""
    # Hashes of all ids first, 8 bytes each: names are kept only of those that occur twice.
    hashes = np.array(array("q", (digest64(row["id"]) for row in _read_parts(parts) if not isinstance(row, Fault))))
    values, counts = np.unique(hashes, return_counts=True)
    repeated: set[int] = set(values[counts > 1].tolist())
    seen: set[str] = set()
    for row in _read_parts(parts):
        if isinstance(row, Fault) or digest64(row["id"]) not in repeated:
            yield row
        elif row["id"] in seen:
            yield Fault(str(row["id"]), "id occurs twice", json.dumps(row["path"]))
        else:
            seen.add(row["id"])
            yield row


def _write_line(file: TextIO, row: dict[str, Any]) -> bytes:
    line = json.dumps(row, ensure_ascii=False) + "\n"
    file.write(line)
    return line.encode()
