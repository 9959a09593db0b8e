"""`bench data` and `bench evaluate`: how fast a config's batches come, and how fast clips are scored."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch

from metis_lightning.bench.options import BenchDataOptions, BenchEvaluateOptions
from metis_lightning.callbacks.throughput import peak_memory
from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.batches.sampler import SecondsBatchSampler, padding_without_buckets
from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricValue
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import METRIC_RATE, ScoringItem
from metis_lightning.metrics.suite import Suite
from metis_lightning.progress import Progress
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.trainer.main import build_from_config
from metis_lightning.types import WAVE_RATE

# Without the recogniser and the speaker encoder: they cost what the chosen models cost.
OPTIONS = SuiteOptions(task="tse", asr=(), speakers=())


def run_bench_data(options: BenchDataOptions, config: Sequence[str]) -> None:
    """Run `bench data`. A `UserError` if the config's corpus is none of this package's."""
    cli = build_from_config(config)
    datamodule = cli.datamodule
    if not isinstance(datamodule, SpeechDataModule) or not isinstance(cli.model, TrainableModule):
        raise UserError("bench data: give a config of a module and a corpus of this package with -c")
    cli.model.read_stored_tokens(datamodule, cli.trainer.strategy.root_device)
    print(*data_report(datamodule, options.seconds), sep="\n")


def data_report(datamodule: SpeechDataModule, seconds: float) -> list[str]:
    """Start a data module, take up an epoch in its middle, read batches for about `seconds`, and report the speeds."""
    # What is measured is a process that has just begun: the planning of a large corpus is part of a start.
    start, memory = perf_counter(), peak_memory(torch.device("cpu"))
    loader = datamodule.train_dataloader()
    sampler = loader.batch_sampler
    assert isinstance(sampler, SecondsBatchSampler)
    setup_seconds, setup_megabytes = perf_counter() - start, (peak_memory(torch.device("cpu")) - memory) / 1e6
    # As a run that was killed there and goes on.
    sampler.resume(1, ((1, len(sampler) // 2),))
    start = perf_counter()
    batches = iter(loader)
    next(batches)
    resume_seconds = perf_counter() - start
    # Started anew after the first batch, which has waited for the workers.
    start, computed = perf_counter(), process_time()
    count, hours = 0, 0.0
    for batch in batches:
        count, hours = count + 1, hours + float(batch.lengths.sum()) / WAVE_RATE / 3600
        if perf_counter() >= start + seconds:
            break
    read_seconds, computed = perf_counter() - start, process_time() - computed
    lengths, batch_seconds = sampler.lengths, datamodule.batch_seconds
    source = "audio" if datamodule.tokens is None else f"token store {datamodule.tokens}"
    unbucketed = padding_without_buckets(lengths, sampler.batch_seconds)
    step_seconds = batch_seconds / max(hours / read_seconds * 3600, 1e-9)
    lines = [
        f"corpus       {len(lengths):,} utterances, {float(lengths.sum()) / 3600:,.2f} h, read from {source}",
        f"start-up     {setup_seconds:.2f} s, {setup_megabytes:.0f} MB",
        f"resume       {resume_seconds:.2f} s to the first batch, from the middle of an epoch",
        f"padding      {sampler.padding():.1%} of a batch; without length buckets {unbucketed:.1%}",
        f"throughput   {hours / read_seconds:.3f} hours of audio a second with {datamodule.num_workers} workers "
        f"({count} batches in {read_seconds:.1f} s)",
        f"so a device that takes a step of {batch_seconds:g} s of audio in {step_seconds:.3f} s "
        "or more does not wait for data",
    ]
    if not datamodule.num_workers and computed:
        # What a machine with other work on it still measures.
        lines.append(f"per core     {hours / computed:.3f} hours of audio a processor second")
    return lines


def run_bench_evaluate(options: BenchEvaluateOptions) -> None:
    """Run `bench evaluate`."""
    clips = list(islice(make_clips(options.seconds), options.clips))
    print(f"clips        {options.clips} of {options.seconds:g} s, on {os.cpu_count()} cores")
    with ScoringPool(OPTIONS, options.processes) as pool:
        # Starting the processes and reading the models is no part of the time.
        deque(score_all(pool, iter(clips[: 2 * options.processes])), maxlen=0)
        start, used = perf_counter(), processor_seconds()
        with Progress("score", "clips", len(clips)) as progress:
            for _ in score_all(pool, iter(clips)):
                progress.step()
        elapsed, used = perf_counter() - start, processor_seconds() - used
        spoken = options.clips * options.seconds
        print(f"speed        {elapsed:.1f} s in {options.processes} processes ({spoken / elapsed:.1f} x real time)")
        # What a machine with other work on it still measures.
        print(f"processors   {used:.1f} s, {1000 * used / spoken:.0f} ms for a second of speech")
        # For those, a few clips are enough.
        print(f"each metric  {'; '.join(metric_costs(clips[:20]))}", flush=True)
        if options.memory_clips:
            more = score_all(pool, islice(make_clips(options.seconds), options.memory_clips))
            memory = measure_memory(more, options.memory_clips)
            print(f"memory       at most {max(memory.megabytes):.0f} MB (all processes together)")
            print(f"slope        {memory.slope:+.1f} MB for 1,000 clips, over the second half")


def make_clips(seconds: float) -> Iterator[ScoringItem]:
    """Yield clips of the starter corpus without end, at 16 kHz: `generated` has white noise at 20, 10, 5 and 0 dB."""
    size, rng = round(seconds * METRIC_RATE), np.random.default_rng(0)
    rest, number = np.zeros(0, dtype=np.float32), 0
    for utterance in cycle(read_manifest(STARTER_ROOT / "starter.jsonl")):
        rest = np.append(rest, read_audio(utterance.path, METRIC_RATE).numpy())
        while len(rest) >= size:
            clean, rest = rest[:size].copy(), rest[size:]
            level = clean.std() * 10 ** (-(20, 10, 5, 0)[number % 4] / 20)
            noisy = clean + level * rng.standard_normal(size).astype(np.float32)
            yield ScoringItem(f"clip-{number}", noisy, METRIC_RATE, reference=clean)
            number += 1


def score_all(pool: ScoringPool, clips: Iterator[ScoringItem]) -> Iterator[dict[str, MetricValue]]:
    """Yield the values of clips, in order, never holding more results than the pool has room for."""
    waiting: deque[Future[dict[str, MetricValue]]] = deque()
    for clip in clips:
        # It blocks while the pool has enough to do.
        waiting.append(pool.submit(clip))
        while waiting and waiting[0].done():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def metric_costs(clips: list[ScoringItem]) -> list[str]:
    """Return milliseconds of a processor for a second of speech, metric by metric, on one thread of this process."""
    spoken = sum(len(clip.generated) / clip.sample_rate for clip in clips)
    costs = []
    # A suite of its own: the pool's are in other processes.
    for metric in Suite(OPTIONS).metrics:
        start = process_time()
        for clip in clips:
            metric.score(clip)
        milliseconds = 1000 * (process_time() - start) / spoken
        costs.append(f"{type(metric).__name__.removesuffix('Metric')} {milliseconds:.0f} ms")
    return costs


@dataclass(frozen=True)
class ResidentMemory:
    """Resident memory in MB of this process and its children, after numbers of clips."""

    clips: list[int]
    megabytes: list[float]

    @property
    def slope(self) -> float:
        """MB for 1,000 clips, by least squares over the second half, when buffers have their size."""
        half = len(self.clips) // 2
        return float(np.polyfit(self.clips[half:], self.megabytes[half:], 1)[0]) * 1000


def measure_memory(scored: Iterator[object], total: int, sample: Callable[[], float] | None = None) -> ResidentMemory:
    """Run through `total` scored clips and take the memory at 40 points of the way."""
    take, every, memory = sample or resident_megabytes, max(1, total // 40), ResidentMemory([], [])
    with Progress("memory", "clips", total) as progress:
        for number, _ in enumerate(scored, start=1):
            progress.step()
            if number % every == 0:
                memory.clips.append(number)
                memory.megabytes.append(take())
    return memory


def resident_megabytes() -> float:
    """Return the resident memory of this process and its children; Linux only."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{number}/statm").read_text().split()[1]) * page for number in _processes()) / 1e6


def processor_seconds() -> float:
    """Return the processor time that this process and its living children have used; Linux only."""
    # Behind the name in brackets, which may have spaces: the 12th and 13th field are user and system time.
    fields = [Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split() for number in _processes()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def _processes() -> list[int]:
    children = [child.pid for child in multiprocessing.active_children()]
    return [os.getpid(), *(number for number in children if number is not None)]
