"""Rows of any task, answered together by `Metis`' methods: lists in, lists out.

Results of jobs: short ones in batches, long sources in chunks, each written under its name when it is complete.

Shape letters: S samples at 24 kHz.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metis_lightning.data.media.audio import audio_seconds, audio_writer, stream_audio
from metis_lightning.errors import UserError
from metis_lightning.generate.inputs import (
    LONGEST,
    LipReader,
    Row,
    is_silent,
    language_of,
    prompt_language_of,
    read_prompt_of,
    read_row,
    result_seconds,
    silent,
)
from metis_lightning.generate.jobs import Job
from metis_lightning.generate.long_audio import Joiner, batches, grouped, overlapping
from metis_lightning.generate.options import SHORTEST_CHUNK
from metis_lightning.pipeline import Metis, Options, Request
from metis_lightning.types import WAVE_RATE


def answer(metis: Metis, rows: Sequence[Row], options: Options) -> list[Tensor]:
    """Return a wave (S,) at 24 kHz for each row; all are of one task.

    Raises:
        UserError: if the pipeline refuses a row, see its methods.
    """
    requests = [request_of(metis, row) for row in rows]
    return [speech.wave for speech in metis.generate(requests, [row.seed for row in rows], **options)]


def request_of(metis: Metis, row: Row) -> Request:
    """Return what a pipeline is asked for a row."""
    job = row.job
    return metis.request(
        job.task,
        row.prompt,
        row.source,
        row.features,
        job.text("text"),
        job.text("prompt_text"),
        language_of(job),
        prompt_language_of(job),
        job.seconds,
    )


OVERLAP = 2.0
"""Seconds that two chunks have in common."""

Ended = Callable[[Job, UserError | None], None]
"""Told when a job ended, and by which mistake if by one."""

Made = Callable[[float], None]
"""Told how many seconds of sound were made."""


@dataclass(frozen=True)
class Maker:
    """Makes results by one pipeline.

    options: settings of the sampler; what is not among them is as released for the task.
    batch_seconds: sound, prompts and padding counted, that is worked on at once.
    chunk_seconds: longest chunk of a source; None takes what a prompt leaves of `LONGEST`.
    lips: makes features of videos.
    """

    metis: Metis
    options: Options = field(default_factory=Options)
    batch_seconds: float = 60.0
    chunk_seconds: float | None = None
    lips: LipReader = field(default_factory=lambda: LipReader(None, "cpu"))

    def make(self, jobs: Sequence[Job], ended: Ended, made: Made) -> None:
        """Make and write the results of all jobs; one whose inputs are not usable does not stop the others."""
        short: dict[str, list[tuple[float, Job]]] = {}
        long: list[Job] = []
        for job in jobs:
            try:
                seconds, limit, prompt = result_seconds(job), self.longest_chunk(job), prompt_seconds(job)
            except UserError as error:
                ended(job, error)
                continue
            if job.path("source") is not None and seconds > limit:
                long.append(job)
            else:
                short.setdefault(job.task, []).append((seconds + prompt, job))
        for batch in (batch for found in short.values() for batch in batches(found, self.batch_seconds)):
            self._make_batch(batch, ended, made)
        for job in long:
            self._make_long(job, ended, made)

    def make_one(self, job: Job) -> None:
        """Make and write one result.

        Raises:
            UserError: if its inputs are not usable.
        """
        failed: list[UserError] = []
        self.make([job], lambda _, error: failed.append(error) if error else None, lambda _: None)
        if failed:
            raise failed[0]

    def longest_chunk(self, job: Job) -> float:
        """Return how many seconds of a job's source are worked on at once."""
        return self.chunk_seconds or max(SHORTEST_CHUNK, LONGEST - prompt_seconds(job))

    def _make_batch(self, jobs: Sequence[Job], ended: Ended, made: Made) -> None:
        rows = []
        for job in jobs:
            try:
                rows.append(read_row(job, self.lips))
            except UserError as error:
                ended(job, error)
        for row, wave in self._waves(rows, ended):
            with audio_writer(row.job.out, WAVE_RATE) as write:
                write(wave)
            made(len(wave) / WAVE_RATE)
            ended(row.job, None)

    def _waves(self, rows: Sequence[Row], ended: Ended) -> list[tuple[Row, Tensor]]:
        """Return rows with their results; a row that the pipeline refuses is left out, and named."""
        try:
            return list(zip(rows, answer(self.metis, rows, self.options), strict=True)) if rows else []
        except UserError as error:
            if len(rows) > 1:
                return [pair for row in rows for pair in self._waves([row], ended)]
            ended(rows[0].job, error)
            return []

    def _make_long(self, job: Job, ended: Ended, made: Made) -> None:
        try:
            with audio_writer(job.out, WAVE_RATE) as write:
                for wave in self.stream(job):
                    write(wave)
                    made(len(wave) / WAVE_RATE)
        except UserError as error:
            ended(job, error)
        else:
            ended(job, None)

    def stream(self, job: Job) -> Iterator[Tensor]:
        """Yield the result of a job with a source of any length in pieces (S,), as long in all as the source.

        Raises:
            UserError: if an input is not usable, which may show late.
        """
        path = job.path("source")
        if path is None:
            raise ValueError(f"the task {job.task} has no source")
        prompt, joiner, samples, is_heard = read_prompt_of(job), Joiner(round(OVERLAP * WAVE_RATE)), 0, False
        chunk_seconds = self.longest_chunk(job)
        chunks = overlapping(stream_audio(path, WAVE_RATE), round(chunk_seconds * WAVE_RATE), joiner.overlap)
        size = max(1, int(self.batch_seconds / (chunk_seconds + prompt_seconds(job))))
        for number, group in enumerate(grouped(chunks, size)):
            is_heard = is_heard or not all(map(is_silent, group))
            samples += sum(map(len, group)) - joiner.overlap * (len(group) - (number == 0))
            seeds = (chunk_seed(job.seed, number * size + index) for index in range(len(group)))
            rows = [Row(job, seed, prompt, chunk) for seed, chunk in zip(seeds, group, strict=True)]
            yield from map(joiner.add, self._answered(rows))
        if not is_heard:
            raise silent("source", path)
        yield joiner.finish(samples)

    def _answered(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return what the model makes of chunks; of silence it would make something, so that stays as it is."""
        are_heard = [not is_silent(_source(row)) for row in rows]
        heard = [row for row, is_heard in zip(rows, are_heard, strict=True) if is_heard]
        waves = iter(answer(self.metis, heard, self.options) if heard else [])
        return [
            next(waves) if is_heard else torch.zeros_like(_source(row))
            for row, is_heard in zip(rows, are_heard, strict=True)
        ]


def prompt_seconds(job: Job) -> float:
    """Return how long a job's prompt lasts; 0 without one."""
    path = job.path("prompt")
    return 0.0 if path is None else audio_seconds(path)


def chunk_seed(seed: int, number: int) -> int:
    """Return the seed of a chunk: the job's for the first, so that a source of one chunk is as if there were none.

    >>> chunk_seed(7, 0), chunk_seed(7, 1) == chunk_seed(7, 2)
    (7, False)
    """
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")


def _source(row: Row) -> Tensor:
    if row.source is None:
        raise ValueError("a chunk is a source")
    return row.source
