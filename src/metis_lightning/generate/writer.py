"""Writes the results of jobs: short ones in batches, long sources in chunks, each under its name when it is complete.

Shape letters: S samples at 24 kHz.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import torch
from torch import Tensor

from metis_lightning.data.batches.sampler import fill_batches
from metis_lightning.data.media.audio import audio_seconds, audio_writer, stream_audio
from metis_lightning.errors import UserError
from metis_lightning.generate.inputs import (
    LONGEST,
    LipReader,
    is_silent,
    read_prompt,
    read_request,
    request_of,
    result_seconds,
    silence_error,
)
from metis_lightning.generate.jobs import Job
from metis_lightning.generate.long_audio import Joiner, grouped, overlapping
from metis_lightning.generate.options import SHORTEST_CHUNK
from metis_lightning.pipeline import Metis, Options, Request
from metis_lightning.types import WAVE_RATE

# Seconds that two chunks have in common.
OVERLAP = 2.0


@dataclass(frozen=True)
class Written:
    """Seconds of a result that were just written; `is_last` if it is complete, or ended by the mistake `error`."""

    job: Job
    seconds: float = 0.0
    is_last: bool = True
    error: UserError | None = None


@dataclass(frozen=True)
class SpeechWriter:
    """Writes results by one pipeline.

    options: settings of the sampler; those that are not among them are as released for the task.
    batch_seconds: sound, prompts and padding counted, that is worked on at once.
    chunk_seconds: longest chunk of a source; None takes what a prompt leaves of `LONGEST`.
    """

    metis: Metis
    options: Options = field(default_factory=Options)
    batch_seconds: float = 60.0
    chunk_seconds: float | None = None
    lips: LipReader = field(default_factory=lambda: LipReader(None, "cpu"))

    def write(self, jobs: Sequence[Job]) -> Iterator[Written]:
        """Write the results of all jobs; one whose inputs are not usable does not stop the others."""
        short, long = dict[str, list[tuple[float, Job]]](), list[Job]()
        for job in jobs:
            try:
                seconds, prompt, limit = result_seconds(job), prompt_seconds(job), self._longest_chunk(job)
            except UserError as error:
                yield Written(job, error=error)
                continue
            if job.path("source") is not None and seconds > limit:
                long.append(job)
            else:
                short.setdefault(job.task, []).append((seconds + prompt, job))
        for of_task in short.values():
            # From the shortest to the longest, so that a batch holds little padding.
            of_task.sort(key=itemgetter(0))
            for batch in fill_batches((seconds for seconds, _ in of_task), self.batch_seconds):
                yield from self._write_batch([of_task[index][1] for index in batch])
        for job in long:
            yield from self._write_long(job)

    def _longest_chunk(self, job: Job) -> float:
        """Return how many seconds of a job's source are worked on at once."""
        return self.chunk_seconds or max(SHORTEST_CHUNK, LONGEST - prompt_seconds(job))

    def _write_batch(self, jobs: Sequence[Job]) -> Iterator[Written]:
        requests = []
        for job in jobs:
            try:
                requests.append((job, read_request(self.metis, job, self.lips)))
            except UserError as error:
                yield Written(job, error=error)
        yield from self._write_requests(requests)

    def _write_requests(self, requests: Sequence[tuple[Job, Request]]) -> Iterator[Written]:
        seeds = [job.seed for job, _ in requests]
        try:
            speech = self.metis.generate([request for _, request in requests], seeds, **self.options)
        except UserError as error:
            # One that the pipeline refuses must not take the others with it.
            if len(requests) == 1:
                yield Written(requests[0][0], error=error)
                return
            for single in requests:
                yield from self._write_requests([single])
            return
        for (job, _), result in zip(requests, speech, strict=True):
            with audio_writer(job.out, WAVE_RATE) as write:
                write(result.wave)
            yield Written(job, len(result.wave) / WAVE_RATE)

    def _write_long(self, job: Job) -> Iterator[Written]:
        try:
            with audio_writer(job.out, WAVE_RATE) as write:
                for wave in self.stream(job):
                    write(wave)
                    yield Written(job, len(wave) / WAVE_RATE, is_last=False)
        except UserError as error:
            yield Written(job, error=error)
        else:
            yield Written(job)

    def stream(self, job: Job) -> Iterator[Tensor]:
        """Yield a result in pieces (S,), as long in all as its source. A `UserError`, maybe late, if that is no use."""
        if (path := job.path("source")) is None:
            raise ValueError(f"the task {job.task} has no source")
        prompt, joiner, samples, is_heard = read_prompt(job), Joiner(round(OVERLAP * WAVE_RATE)), 0, False
        chunk_seconds = self._longest_chunk(job)
        chunks = overlapping(stream_audio(path, WAVE_RATE), round(chunk_seconds * WAVE_RATE), joiner.overlap)
        size = max(1, int(self.batch_seconds / (chunk_seconds + prompt_seconds(job))))
        for number, group in enumerate(grouped(chunks, size)):
            is_heard = is_heard or not all(map(is_silent, group))
            samples += sum(map(len, group)) - joiner.overlap * (len(group) - (number == 0))
            yield from map(joiner.add, self._results(job, prompt, group, number * size))
        # Known only now: the source may be longer than memory.
        if not is_heard:
            raise silence_error("source", path)
        yield joiner.finish(samples)

    def _results(self, job: Job, prompt: Tensor | None, chunks: Sequence[Tensor], first: int) -> list[Tensor]:
        """Return the results of chunks, of which the `first` is so numbered."""
        # Of silence the model would make something, so it stays as it is.
        results = [torch.zeros_like(chunk) for chunk in chunks]
        audible = [index for index, chunk in enumerate(chunks) if not is_silent(chunk)]
        requests = [request_of(self.metis, job, prompt, chunks[index]) for index in audible]
        seeds = [chunk_seed(job.seed, first + index) for index in audible]
        for index, speech in zip(audible, self.metis.generate(requests, seeds, **self.options), strict=True):
            results[index] = speech.wave
        return results


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
