"""`bench data`: how fast a config's batches come: start-up, resume, padding, and hours of audio a second."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

from metis_lightning.bench.options import BenchDataOptions
from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.batches.sampler import SecondsBatchSampler, padding_without_buckets
from metis_lightning.errors import UserError
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.trainer.main import build_from_config
from metis_lightning.types import WAVE_RATE


def run_bench_data(options: BenchDataOptions, config: Sequence[str]) -> None:
    """Run `bench data` as the command line asks. A `UserError` if the config's corpus is none of this package's."""
    cli = build_from_config(config)
    datamodule = cli.datamodule
    if not isinstance(datamodule, SpeechDataModule) or not isinstance(cli.model, TrainableModule):
        raise UserError("bench data: give a config of a module and a corpus of this package with -c")
    cli.model.read_stored_tokens(datamodule, cli.trainer.strategy.root_device)
    print(*report(measure(datamodule, options.seconds), datamodule), sep="\n")


def report(speed: Throughput, datamodule: SpeechDataModule) -> list[str]:
    """Return the lines that `bench data` prints."""
    source = "audio" if datamodule.tokens is None else f"token store {datamodule.tokens}"
    rate = speed.hours_per_second * 3600 / datamodule.batch_seconds
    lines = [
        f"corpus       {speed.utterances:,} utterances, {speed.hours:,.2f} h, read from {source}",
        f"start-up     {speed.setup_seconds:.2f} s, {speed.setup_megabytes:.0f} MB",
        f"resume       {speed.resume_seconds:.2f} s to the first batch, from the middle of an epoch",
        f"padding      {speed.padding:.1%} of a batch; without length buckets {speed.padding_unbucketed:.1%}",
        f"throughput   {speed.hours_per_second:.3f} hours of audio a second with {datamodule.num_workers} workers "
        f"({speed.batches} batches in {speed.read_seconds:.1f} s)",
        f"so a device that takes a step of {datamodule.batch_seconds:g} s of audio in {1 / max(rate, 1e-9):.3f} s "
        "or more does not wait for data",
    ]
    if not datamodule.num_workers and speed.processor_seconds:
        # What a machine with other work on it still measures.
        lines.append(f"per core     {speed.read_hours / speed.processor_seconds:.3f} hours of audio a processor second")
    return lines


@dataclass(frozen=True)
class Throughput:
    """The speed of a data module.

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
    # What is measured is a process that has just begun: the planning of a large corpus is part of a start.
    start, memory = perf_counter(), resident_megabytes()
    loader = datamodule.train_dataloader()
    sampler = loader.batch_sampler
    assert isinstance(sampler, SecondsBatchSampler)
    setup_seconds, setup_megabytes = perf_counter() - start, resident_megabytes() - memory
    # As a run that was killed there and goes on.
    sampler.resume(epoch=1, batches=len(sampler) // 2)
    start = perf_counter()
    batches = iter(loader)
    next(batches)
    resume_seconds = perf_counter() - start
    start, computed = perf_counter(), process_time()
    hours = []
    for batch in batches:
        hours.append(float(batch.lengths.sum()) / WAVE_RATE / 3600)
        if perf_counter() >= start + seconds:
            break
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


def resident_megabytes() -> float:
    """Return the most memory that this process has had at a time, in MB."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
