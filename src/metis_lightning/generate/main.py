"""The command `generate`: reads the jobs, writes the results that are missing, and shows them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from metis_lightning.data.media.audio import decoded_length
from metis_lightning.errors import UserError
from metis_lightning.files import check_output, sha256_of
from metis_lightning.generate.inputs import LipReader, check_texts, encoded_prompt, read_prompt, result_seconds
from metis_lightning.generate.jobs import PATHS, Job, folder_input, jobs_of
from metis_lightning.generate.options import GenerateOptions
from metis_lightning.generate.play_list import write_play_list
from metis_lightning.generate.weights import chosen_device, chosen_precision, identity, load_metis
from metis_lightning.generate.writer import SpeechWriter
from metis_lightning.pipeline import Options
from metis_lightning.progress import Progress

INDEX = "generated.jsonl"


def run_generate(options: GenerateOptions) -> None:
    """Run the command `generate`. A `UserError` for a mistake; of a list or folder, what is usable was made before."""
    if options.play_list is not None and options.play_list.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--play-list {options.play_list}: end it with .html")
    jobs = jobs_of(options)
    if options.play_list is not None:
        check_output(options.play_list, "--play-list")
    if any("video" in job.inputs for job in jobs):
        # That there is none is told at once.
        _ = LipReader(options.visual_encoder, chosen_device(options), options.bundle_of(options.model)).encoder
    if options.list is None and folder_input(options) is None:
        # Before the weights, which may be gigabytes, are read.
        read_prompt(jobs[0])
        result_seconds(jobs[0])
        if mistakes := _write(jobs, options, None):
            raise mistakes[0]
        print(jobs[0].out)
    else:
        mistakes = _write_missing(jobs, options)
        print(f"{options.out}: {len(jobs) - len(mistakes)} of {len(jobs)} files")
    if options.play_list is not None:
        write_play_list(options.play_list, f"{options.task}: {options.out}", jobs)
        print(f"play list: {options.play_list}")
    if mistakes:
        raise UserError(f"{len(mistakes)} of {len(jobs)} could not be made, the first: {mistakes[0]}")


def _write_missing(jobs: Sequence[Job], options: GenerateOptions) -> list[UserError]:
    """Write the results that a folder lacks, and return the mistakes that kept some from being made."""
    check_output(options.out / INDEX)
    decisive = {**identity(options.model, options), **sampler_options(options), "chunk_seconds": options.chunk_seconds}
    # What was made before there was a choice was made in float32, and need not be made again.
    if (precision := chosen_precision(options)) != "float32":
        decisive["precision"] = precision
    index = GenerationIndex(options.out, decisive)
    missing = [job for job in jobs if not index.has(job)]
    if len(missing) < len(jobs):
        print(f"{len(jobs) - len(missing)} of {len(jobs)} are there already and unchanged", file=sys.stderr)
    return _write(missing, options, index) if missing else []


def _write(jobs: Sequence[Job], options: GenerateOptions, index: GenerationIndex | None) -> list[UserError]:
    """Write results, note them in the index of a folder, and return the mistakes that kept some from being made."""
    writer = _writer(jobs, options)
    mistakes, usable, remarks, total = list[UserError](), list[Job](), {""}, 0.0
    for job in jobs:
        # A mistake is reported when the job's turn comes.
        with suppress(UserError):
            total += result_seconds(job)
    with Progress(f"generate {options.task}", "s of sound", total) as progress:

        def note(job: Job, error: UserError) -> None:
            # A line of a list is named once.
            mistakes.append(error if str(error).startswith(job.where) else UserError(f"{job.where}{error}"))
            if index is not None:
                progress.say(f"metis-lightning: {mistakes[-1]}")

        for job in jobs:
            try:
                check_texts(job, writer.metis.text)
                # Headers may promise more than the file holds: the result is of what it holds.
                new = {decoded_length(path)[1] for path in job.sounds} - remarks
                progress.say(*(f"metis-lightning: {remark}" for remark in sorted(new)))
                remarks |= new
                usable.append(job)
            except UserError as error:
                note(job, error)
        for written in writer.write(usable):
            progress.step(amount=written.seconds)
            if written.peak > 1:
                progress.say(f"metis-lightning: {written.job.out}: samples of up to {written.peak:.2f} were cut to 1")
            if written.error is not None:
                note(written.job, written.error)
            elif written.is_last and index is not None:
                index.add(written.job)
    return mistakes


def _writer(jobs: Sequence[Job], options: GenerateOptions) -> SpeechWriter:
    """Load the weights, and write the prompt's voice if that is asked for."""
    metis = load_metis(options.model, options.task, options)
    if options.save_voice is not None:
        encoded_prompt(metis, jobs[0]).save(options.save_voice)
    lips = LipReader(options.visual_encoder, chosen_device(options), options.bundle_of(options.model))
    return SpeechWriter(metis, sampler_options(options), options.batch_seconds, options.chunk_seconds, lips)


def sampler_options(options: GenerateOptions) -> Options:
    """Return the settings that are given; the others stay as released."""
    names = ("preset", "num_steps", "guidance_scale", "temperature", "stage2_steps")
    return cast(Options, {name: value for name in names if (value := getattr(options, name)) is not None})


class GenerationIndex:
    """A line for each result of a folder with what it was made of, so that a repeated run makes what is missing.

    The last line of an id counts. `run` holds what decides all results alike, such as weights and settings, as plain
    values. A `UserError` if the folder has another kind of file of that name.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.path, self.run = folder / INDEX, run
        self._lines: dict[str, dict[str, Any]] = {}
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        for part in text.split("\n"):
            try:
                line = json.loads(part)
            except (ValueError, RecursionError):
                # A crash cut it off: its result counts as not there.
                continue
            if not isinstance(line, dict) or not {"id", "fingerprint", "sha256"} <= line.keys():
                raise UserError(f"{self.path}: not an index of generated files; name another folder, or move it away")
            self._lines[str(line["id"])] = line

    def has(self, job: Job) -> bool:
        """Tell whether a job's result is there, unchanged, and of the same inputs and settings."""
        line = self._lines.get(job.id)
        if line is None or not job.out.is_file():
            return False
        return line["fingerprint"] == self.fingerprint(job) and line["sha256"] == sha256_of(job.out)

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
        for name in inputs.keys() & set(PATHS):
            status = Path(inputs[name]).stat()
            inputs[name] = _content(Path(inputs[name]), status.st_size, status.st_mtime_ns)
        described = json.dumps([self.run, job.task, job.seed, inputs], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()


# A prompt often goes for every line of a list; size and time tell when it was changed.
@lru_cache(256)
def _content(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)
