"""Writes the results of jobs: short ones in batches, long sources in chunks, each under its name when it is complete.

Shape letters: S samples at 24 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from torch import Tensor

from metis_lightning.data.batches.sampler import fill_batches
from metis_lightning.data.media.audio import audio_writer, stream_audio
from metis_lightning.errors import UserError
from metis_lightning.generate.inputs import (
    LipReader,
    prompt_seconds,
    read_prompt,
    read_request,
    result_seconds,
    silence_error,
)
from metis_lightning.generate.jobs import Job
from metis_lightning.pipeline import Metis, Options, Request
from metis_lightning.sampling.long_audio import is_silent, longest_chunk
from metis_lightning.types import WAVE_RATE


@dataclass(frozen=True)
class Written:
    """Seconds of a result that were just written; `is_last` if it is complete, or ended by the mistake `error`.

    peak: of a complete one, the largest sample; the file holds no more than 1.
    """

    job: Job
    seconds: float = 0.0
    is_last: bool = True
    error: UserError | None = None
    peak: float = 0.0


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
                seconds, prompt = result_seconds(job), prompt_seconds(job)
                limit = longest_chunk(prompt, self.chunk_seconds)
            except UserError as error:
                yield Written(job, error=error)
                continue
            if seconds > limit and (job.path("source") is not None or ("text" in job.inputs and job.seconds is None)):
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
            yield Written(job, len(result.wave) / WAVE_RATE, peak=float(result.wave.abs().max()))

    def _write_long(self, job: Job) -> Iterator[Written]:
        try:
            peak = 0.0
            with audio_writer(job.out, WAVE_RATE) as write:
                for wave in self.stream(job):
                    write(wave)
                    peak = float(wave.abs().max().clamp(min=peak)) if len(wave) else peak
                    yield Written(job, len(wave) / WAVE_RATE, is_last=False)
        except UserError as error:
            yield Written(job, error=error)
        else:
            yield Written(job, peak=peak)

    def stream(self, job: Job) -> Iterator[Tensor]:
        """Yield a result in pieces (S,). A `UserError`, maybe late, if an input is no use."""
        path, prompt = job.path("source"), prompt_seconds(job)
        chunk_seconds, is_heard = longest_chunk(prompt, self.chunk_seconds), path is None

        def blocks(path: Path) -> Iterator[Tensor]:
            nonlocal is_heard
            for block in stream_audio(path, WAVE_RATE):
                is_heard = is_heard or not is_silent(block)
                yield block

        source, texts = None if path is None else blocks(path), (job.text("text"), job.text("prompt_text"))
        yield from self.metis.stream(
            *(job.task, read_prompt(job), source, *texts, *job.languages),
            seed=job.seed,
            chunk_seconds=chunk_seconds,
            together=max(1, int(self.batch_seconds / (chunk_seconds + prompt))),
            **self.options,
        )
        # Known only now: the source may be longer than memory.
        if path is not None and not is_heard:
            raise silence_error("source", path)
