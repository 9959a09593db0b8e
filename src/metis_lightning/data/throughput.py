"""How fast batches come: start-up, resume, padding, and hours of audio a second."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter, process_time

from metis_lightning.data.batching import SecondsBatchSampler, padding_without_buckets
from metis_lightning.data.module import SpeechDataModule
from metis_lightning.types import WAVE_RATE, SpeechBatch


@dataclass(frozen=True)
class Throughput:
    """What `measure` found.

    utterances, hours: of the training split.
    setup_seconds, setup_megabytes: from the data module to its first batch's plan, and the memory that this took.
    resume_seconds: from a position in the middle of an epoch to its first batch, workers' start included.
    padding, padding_unbucketed: shares of an epoch's batches.
    batches, read_hours, read_seconds: what was read in the time given, after the first batch.
    processor_seconds: what this process computed meanwhile; all that there was to compute if there are no workers.
    """

    utterances: int
    hours: float
    setup_seconds: float
    setup_megabytes: float
    resume_seconds: float
    padding: float
    padding_unbucketed: float
    batches: int
    read_hours: float
    read_seconds: float
    processor_seconds: float

    @property
    def hours_per_second(self) -> float:
        """Hours of audio that a process gets in a second."""
        return self.read_hours / self.read_seconds if self.read_seconds else 0.0


def measure(datamodule: SpeechDataModule, seconds: float) -> Throughput:
    """Start a data module, take up an epoch in its middle, and read batches for about `seconds`."""
    start, memory = perf_counter(), resident_megabytes()
    loader = datamodule.train_dataloader()
    sampler = loader.batch_sampler
    assert isinstance(sampler, SecondsBatchSampler)
    setup_seconds, setup_megabytes = perf_counter() - start, resident_megabytes() - memory
    sampler.resume(epoch=1, batches=len(sampler) // 2)
    start = perf_counter()
    batches = iter(loader)
    next(batches)
    resume_seconds = perf_counter() - start
    start, computed = perf_counter(), process_time()
    hours = [_hours(batch) for batch in _until(batches, start + seconds)]
    read_seconds, processor_seconds = perf_counter() - start, process_time() - computed
    lengths = sampler.lengths
    return Throughput(
        utterances=len(lengths),
        hours=float(lengths.sum()) / 3600,
        setup_seconds=setup_seconds,
        setup_megabytes=setup_megabytes,
        resume_seconds=resume_seconds,
        padding=sampler.padding(),
        padding_unbucketed=padding_without_buckets(lengths, sampler.batch_seconds),
        batches=len(hours),
        read_hours=sum(hours),
        read_seconds=read_seconds,
        processor_seconds=processor_seconds,
    )


def _until(batches: Iterator[SpeechBatch], end: float) -> Iterator[SpeechBatch]:
    for batch in batches:
        yield batch
        if perf_counter() >= end:
            return


def _hours(batch: SpeechBatch) -> float:
    return float(batch.lengths.sum()) / WAVE_RATE / 3600


def resident_megabytes() -> float:
    """Return the most memory that this process has had at a time, in MB."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
