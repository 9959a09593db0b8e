"""`bench evaluate`: how fast clips are scored, what each metric costs, and with how much memory.

The recogniser and the speaker encoder are left out: they cost what the chosen models cost.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from metis_lightning.bench.options import BenchEvaluateOptions
from metis_lightning.data.corpora.starter import STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.metrics.metric import MetricValue
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import METRIC_RATE, ScoringItem
from metis_lightning.metrics.suite import Suite
from metis_lightning.progress import Progress

OPTIONS = SuiteOptions(task="tse", asr=(), speakers=())

_MEASURED_APART = 20
"""Clips on which each metric is measured by itself."""


def run_bench_evaluate(options: BenchEvaluateOptions) -> None:
    """Run `bench evaluate` as the command line asks."""
    clips = list(islice(make_clips(options.seconds), options.clips))
    print(f"clips        {options.clips} of {options.seconds:g} s, on {os.cpu_count()} cores")
    with ScoringPool(OPTIONS, options.processes) as pool:
        # Starting the processes and reading the models is no part of the time.
        deque(score_all(pool, iter(clips[: 2 * options.processes])), maxlen=0)
        start, used = time.perf_counter(), processor_seconds()
        with Progress("score", "clips", len(clips)) as progress:
            for _ in score_all(pool, iter(clips)):
                progress.step()
        elapsed, used = time.perf_counter() - start, processor_seconds() - used
        spoken = options.clips * options.seconds
        print(f"speed        {elapsed:.1f} s in {options.processes} processes ({spoken / elapsed:.1f} x real time)")
        # What a machine with other work on it still measures.
        print(f"processors   {used:.1f} s, {1000 * used / spoken:.0f} ms for a second of speech")
        print(f"each metric  {'; '.join(metric_costs(clips[:_MEASURED_APART]))}", flush=True)
        if options.memory_clips:
            more = score_all(pool, islice(make_clips(options.seconds), options.memory_clips))
            memory = measure_memory(more, options.memory_clips)
            print(f"memory       at most {max(memory.megabytes):.0f} MB (all processes together)")
            print(f"slope        {memory.slope:+.1f} MB for 1,000 clips, over the second half")


def make_clips(seconds: float) -> Iterator[ScoringItem]:
    """Yield clips of the starter corpus without end: speech of one voice after another, noisier from clip to clip.

    A clip is the clean speech as `reference`, and with white noise at 20, 10, 5 or 0 dB as `generated`, at 16 kHz.
    """
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
        start = time.process_time()
        for clip in clips:
            metric.score(clip)
        milliseconds = 1000 * (time.process_time() - start) / spoken
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
    """Return the ids of this process and its children."""
    children = [child.pid for child in multiprocessing.active_children()]
    return [os.getpid(), *(number for number in children if number is not None)]
