"""`bench evaluate`: how fast clips are scored beside torchmetrics' functions, and with how much memory.

Both sides score the same clips in one run, and have to give the same numbers: PESQ in both bands, STOI, ESTOI, SI-SDR
and DNSMOS (P.835 and P.808). torchmetrics has no recogniser and no speaker encoder, so they are left out on both sides.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from metis_lightning.bench.options import BenchEvaluateOptions
from metis_lightning.data.corpora.starter import STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError
from metis_lightning.metrics.dnsmos import DnsmosMetric, model_files
from metis_lightning.metrics.metric import MetricValue
from metis_lightning.metrics.model_files import require
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import METRIC_RATE, ScoringItem

TOLERANCES = {
    **dict.fromkeys(COLUMNS, 1e-3),
    "PESQ": 1e-5,
    "PESQ_NB": 1e-5,
    "STOI": 1e-9,
    "ESTOI": 1e-9,
    "SI_SDR": 1e-4,
}
"""How far both sides may be apart. librosa's spectrogram is the DNSMOS difference; SI-SDR is theirs in float32 here."""

OPTIONS = SuiteOptions(task="tse", asr=(), speakers=())

Values = dict[str, float]


@dataclass(frozen=True)
class Timing:
    """Seconds for a number of clips, by the clock and of all processors, and what was measured of each."""

    seconds: float
    processor_seconds: float
    values: list[Values]


def run_bench_evaluate(options: BenchEvaluateOptions) -> None:
    """Run `bench evaluate` as the command line asks.

    Raises:
        UserError: a package is missing, or the two sides do not give the same numbers.
    """
    theirs = TorchMetrics()
    clips = list(islice(make_clips(options.seconds), options.clips))
    with ScoringPool(OPTIONS, options.processes) as pool:
        # Starting the processes and reading the models is no part of either time.
        list(score_all(pool, clips[: 2 * options.processes]))
        ours = _timed(f"in {options.processes} processes", score_all(pool, clips), len(clips))
        theirs(clips[0])
        reference = _timed("torchmetrics, one by one", map(theirs, clips), len(clips))
        apart = differences(ours.values, reference.values)
        print(*report(ours, reference, apart, options), sep="\n", flush=True)
        if options.memory_clips:
            more = islice(make_clips(options.seconds), options.memory_clips)
            print(*memory_report(measure_memory(score_all(pool, more), options.memory_clips)), sep="\n")
    if wrong := [name for name, difference in apart.items() if not difference <= TOLERANCES[name]]:
        raise UserError(f"bench evaluate: not the same numbers for {', '.join(wrong)}; check the installed versions")


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


def score_all(pool: ScoringPool, clips: Iterator[ScoringItem] | Sequence[ScoringItem]) -> Iterator[Values]:
    """Yield the metrics of clips, in order, never holding more results than the pool has room for."""
    waiting: deque[Future[dict[str, MetricValue]]] = deque()
    for clip in clips:
        waiting.append(pool.submit(clip))
        while waiting and waiting[0].done():
            yield _values(waiting.popleft().result())
    while waiting:
        yield _values(waiting.popleft().result())


class TorchMetrics:
    """The same metrics by torchmetrics' functions, one after another, as its documentation calls them."""

    def __init__(self) -> None:
        """Import what they need, and put the DNSMOS files that speechmos carries where torchmetrics looks for them.

        Raises:
            UserError: librosa or requests is not installed.
        """
        for package in ("librosa", "requests"):
            require(package, "bench")
        from torchmetrics.functional.audio import dnsmos

        self._folder = tempfile.TemporaryDirectory(prefix="dnsmos-")
        target = Path(self._folder.name) / "DNSMOS"
        target.mkdir()
        for path in model_files().values():
            (target / path.name).symlink_to(path)
        # It would download them otherwise.
        dnsmos.DNSMOS_DIR = self._folder.name

    def __call__(self, clip: ScoringItem) -> Values:
        """Score one clip."""
        from torchmetrics.functional import audio
        from torchmetrics.functional.audio.dnsmos import deep_noise_suppression_mean_opinion_score
        from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality
        from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

        if clip.reference is None:
            raise ValueError(f"{clip.id} has no reference")
        prediction, target = torch.as_tensor(clip.generated), torch.as_tensor(clip.reference)
        pair, rate = (prediction, target), clip.sample_rate
        p808, sig, bak, ovrl = deep_noise_suppression_mean_opinion_score(prediction, rate, False).tolist()
        return {
            **dict(zip(COLUMNS, (sig, bak, ovrl, p808), strict=True)),
            "PESQ": float(perceptual_evaluation_speech_quality(*pair, rate, "wb")),
            "PESQ_NB": float(perceptual_evaluation_speech_quality(*pair, rate, "nb")),
            "STOI": float(short_time_objective_intelligibility(*_double(pair), rate)),
            "ESTOI": float(short_time_objective_intelligibility(*_double(pair), rate, extended=True)),
            "SI_SDR": float(audio.scale_invariant_signal_distortion_ratio(*pair, zero_mean=True)),
        }


def differences(ours: Sequence[Values], theirs: Sequence[Values]) -> Values:
    """Return the largest absolute difference of each metric over clips."""
    return {
        name: max(abs(mine[name] - other[name]) for mine, other in zip(ours, theirs, strict=True)) for name in theirs[0]
    }


def report(ours: Timing, theirs: Timing, apart: Mapping[str, float], options: BenchEvaluateOptions) -> list[str]:
    """Return the lines on speed and numbers."""
    spoken = options.clips * options.seconds
    return [
        f"clips        {options.clips} of {options.seconds:g} s, on {os.cpu_count()} cores",
        f"ours         {ours.seconds:.1f} s in {options.processes} processes ({spoken / ours.seconds:.1f} x real time)",
        f"torchmetrics {theirs.seconds:.1f} s, one by one ({spoken / theirs.seconds:.1f} x real time)",
        f"ratio        {theirs.seconds / ours.seconds:.2f} x faster",
        # What a machine with other work on it still measures.
        f"processors   {ours.processor_seconds:.1f} s against {theirs.processor_seconds:.1f} s",
        "largest difference of a clip: " + ", ".join(f"{name} {value:.1e}" for name, value in apart.items()),
    ]


@dataclass(frozen=True)
class Memory:
    """Resident memory in MB of this process and its children, after numbers of clips."""

    clips: list[int]
    megabytes: list[float]

    @property
    def slope(self) -> float:
        """MB for 1,000 clips, by least squares over the second half, when buffers have their size."""
        half = len(self.clips) // 2
        return float(np.polyfit(self.clips[half:], self.megabytes[half:], 1)[0]) * 1000


def measure_memory(scored: Iterator[Values], total: int, sample: Callable[[], float] | None = None) -> Memory:
    """Run through `total` scored clips and take the memory at 40 points of the way."""
    take, every, clips, megabytes = sample or resident_megabytes, max(1, total // 40), [], []
    for number, _ in enumerate(_shown("memory", scored, total), start=1):
        if number % every == 0:
            clips.append(number)
            megabytes.append(take())
    return Memory(clips, megabytes)


def memory_report(memory: Memory) -> list[str]:
    """Return the lines on memory."""
    first, last, most = memory.megabytes[0], memory.megabytes[-1], max(memory.megabytes)
    return [
        f"memory       {first:.0f} MB after {memory.clips[0]} clips, {last:.0f} MB after {memory.clips[-1]}, at most "
        f"{most:.0f} MB (all processes together)",
        f"slope        {memory.slope:+.1f} MB for 1,000 clips, over the second half",
    ]


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


def _timed(name: str, scored: Iterator[Values], total: int) -> Timing:
    start, used = time.perf_counter(), processor_seconds()
    values = list(_shown(name, scored, total))
    return Timing(time.perf_counter() - start, processor_seconds() - used, values)


def _shown(name: str, scored: Iterator[Values], total: int) -> Iterator[Values]:
    if not sys.stderr.isatty():
        print(f"{name}: {total} clips", file=sys.stderr, flush=True)
    return iter(tqdm(scored, desc=name, total=total, unit="clip", disable=None))


def _values(scored: Mapping[str, MetricValue]) -> Values:
    """Return the columns that both sides have; a clip without a value is an error here."""
    missing = [f"{name}: {value.error}" for name, value in scored.items() if name in TOLERANCES and value.value is None]
    if missing:
        raise ValueError(f"a clip of the benchmark has no value: {missing}")
    return {name: value.value for name, value in scored.items() if name in TOLERANCES and value.value is not None}


def _double(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both in float64: in float32 torchmetrics rounds what pystoi computes in float64."""
    return pair[0].double(), pair[1].double()
