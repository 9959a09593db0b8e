"""The index of a folder of results: a run that is repeated makes only what is missing or changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.generate.jobs import PATHS, Job

INDEX = "generated.jsonl"


class GenerationIndex:
    """A line for each result of a folder with what it was made of. The last line of an id counts.

    Args:
        folder: of the results; made when the first is noted.
        run: what decides all results alike, such as weights and settings; plain values.

    Raises:
        UserError: if the folder has another kind of file of that name.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.path, self.run = folder / INDEX, run
        self._lines: dict[str, dict[str, Any]] = {}
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.is_file() else []
        for text in lines:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                # A crash cut it off: its result counts as not there.
                continue
            if not isinstance(line, dict) or not {"id", "fingerprint", "sha256"} <= line.keys():
                raise UserError(f"{self.path}: not an index of generated files; name another folder, or move it away")
            self._lines[str(line["id"])] = line

    def has(self, job: Job) -> bool:
        """Tell whether a job's result is there, unchanged, and of the same inputs and settings."""
        line = self._lines.get(job.id)
        return (
            line is not None
            and job.out.is_file()
            and line["fingerprint"] == self.fingerprint(job)
            and line["sha256"] == sha256_of(job.out)
        )

    def add(self, job: Job) -> None:
        """Note that a job's result is there."""
        line = {"id": job.id, "fingerprint": self.fingerprint(job), "sha256": sha256_of(job.out)}
        self._lines[job.id] = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            # A line that was cut off by a crash must not swallow this one.
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")

    def fingerprint(self, job: Job) -> str:
        """Return a hash of everything that decides a job's result: texts, contents of files, seed, and the run."""
        inputs = dict(job.inputs)
        for name in PATHS:
            if (path := job.path(name)) is not None:
                status = path.stat()
                inputs[name] = _content(path, status.st_size, status.st_mtime_ns)
        described = json.dumps([self.run, job.task, job.seed, inputs], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()


# A prompt often goes for every line of a list; size and time tell when it was changed.
@lru_cache(256)
def _content(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)
