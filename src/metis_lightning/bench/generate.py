"""`bench generate`: how fast requests are answered, by stage, batch size and precision, and with how much memory."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import torch

from metis_lightning.bench.options import BenchGenerateOptions
from metis_lightning.bench.released_decoding import ReleasedMetis
from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import resample
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, check_output
from metis_lightning.metrics.recognizers.base import offline_asr
from metis_lightning.metrics.signal import METRIC_RATE
from metis_lightning.metrics.text import normalizer
from metis_lightning.metrics.wer import word_errors
from metis_lightning.models.inference import prepare_for_inference
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import GatedAdapter, Stage1, Stage1Config
from metis_lightning.options import Precision
from metis_lightning.pipeline import Metis, Request, Settings, Speech
from metis_lightning.task_table import task_named
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.tokens.w2v_bert import W2vBertFeatures, build_encoder
from metis_lightning.types import WAVE_RATE
from metis_lightning.weights.build import config_from
from metis_lightning.weights.bundle import bundle_folder, read_index

Kind = TypeVar("Kind", bound=Metis)
# Lengths of the requests, one after another, as shares of the length that is asked for.
SPREAD = (1.0, 0.6, 1.4, 0.8, 1.2, 0.5, 1.5, 1.0)


@dataclass(frozen=True)
class Measurement:
    """A line of the table: how the requests were answered, and what that took.

    seconds, forwards: by stage, of all requests together; `total` is the sum of the seconds.
    cpu_seconds: of all threads of the process; what a machine with other work on it still measures.
    gigaflops: what a product of matrices reached just before, in 10⁹ operations a second.
    megabytes: peak memory, of the process on a CPU and of the device on a GPU.
    """

    name: str
    batch_size: int
    seconds: dict[str, float]
    total: float
    forwards: dict[str, int]
    audio_seconds: float
    cpu_seconds: float
    gigaflops: float
    megabytes: float
    speech: tuple[Speech, ...]


def run_bench_generate(options: BenchGenerateOptions) -> None:
    """Run `bench generate`. A `UserError` if there are no such weights, or the table cannot be written."""
    if options.out:
        check_output(options.out)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    requests = bench_requests(options.task, options.seconds, max(options.batch_sizes), options.scale == "nano")
    settings = task_named(options.task).settings
    if options.num_steps is not None:
        settings = settings.chosen({"num_steps": options.num_steps})
    print(*machine(device), sep="\n")
    rows: list[Measurement] = []
    # None is the released way, which answers one request at a time.
    precisions: list[Precision | None] = [*([None] if options.released else []), *options.precision]
    for precision in precisions:
        try:
            metis = _loaded(options, precision, device)
        except UserError as error:
            # What this processor cannot do, or not fast, is no reason to measure nothing.
            print(f"{precision}: {error}", flush=True)
            continue
        for preset in ("released",) if precision is None else options.presets:
            label = (precision or "released way") + ("" if preset == "released" else f", {preset}")
            chosen = settings.chosen({"preset": preset})
            for batch_size in [1] if precision is None else options.batch_sizes:
                rows.append(measured(metis, requests, label, batch_size, chosen))
                print(f"{label}, batch {batch_size}: {rows[-1].total:.1f} s", flush=True)
        # The peak of the next row must not hold this one's weights.
        del metis
        gc.collect()
    lines = table(rows, words_changed(rows) if options.words else None)
    print("", *lines, sep="\n")
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text("\n".join([*machine(device), "", *lines, ""]), encoding="utf-8")


def _loaded(options: BenchGenerateOptions, precision: Precision | None, device: str) -> Metis:
    kind = ReleasedMetis if precision is None else Metis
    if options.scale == "paper":
        return random_metis(kind, options.task, device, precision, compile=options.compile)
    return kind.from_pretrained(
        options.system, options.task, device=device, precision=precision or "float32", compile=options.compile
    )


def bench_requests(task: str, seconds: float, count: int, mixed: bool) -> list[Request]:
    """Return requests of speech `seconds` long on average, of different lengths if they are `mixed`."""
    needed, requests = int(seconds * WAVE_RATE), []
    corpus = SpeechCorpus(list(islice(read_manifest(STARTER_ROOT / "starter.jsonl"), 200)))
    speech, utterances = torch.empty(0), cycle(range(len(corpus)))
    while len(speech) < 4 * needed + 60 * WAVE_RATE:
        speech = torch.cat([speech, corpus.wave(next(utterances))])
    for index, share in zip(range(count), cycle(SPREAD if mixed or count > 1 else SPREAD[:1]), strict=False):
        # Source and prompt do not overlap, and requests are all different.
        start = (index * needed) % (len(speech) - 3 * needed)
        source = speech[start : start + int(share * needed)]
        prompt = None if task == "se" else speech[start + 2 * needed : start + 3 * needed]
        requests.append(Request(task, prompt, source))
    return requests


def measured(metis: Metis, requests: Sequence[Request], name: str, batch_size: int, settings: Settings) -> Measurement:
    """Return how long a pipeline takes to answer requests, `batch_size` at a time."""
    metis.batch_size = batch_size
    # Kernels are chosen, memory is taken and graphs are captured in the first round; a short one will do for the CPU.
    short = replace(requests[0], source=None if requests[0].source is None else requests[0].source[:4800])
    warm_up = requests if metis.device.type == "cuda" else [short]
    metis.generate(warm_up, 0, replace(settings, stage2_steps=(2, 2, 1)), num_steps=2)
    gigaflops = matmul_gigaflops(metis.device)
    if metis.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(metis.device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        # Resets VmHWM, see proc(5).
        Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    speech = metis.generate(requests, list(range(len(requests))), settings)
    cpu_seconds = time.process_time() - start
    # Rows that were answered together share one timing.
    timings = {id(each.timing): each.timing for each in speech if each.timing is not None}.values()
    seconds = {stage: sum(timing.seconds[stage] for timing in timings) for stage in next(iter(timings)).seconds}
    if metis.device.type == "cuda":
        megabytes = torch.cuda.max_memory_allocated(metis.device) / 1e6
    else:
        lines = Path("/proc/self/status").read_text().splitlines()
        megabytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3
    total, audio_seconds = sum(seconds.values()), sum(len(each.wave) for each in speech) / WAVE_RATE
    forwards = {stage: sum(timing.forwards[stage] for timing in timings) for stage in ("stage1", "stage2")}
    return Measurement(
        name, batch_size, seconds, total, forwards, audio_seconds, cpu_seconds, gigaflops, megabytes, tuple(speech)
    )


def matmul_gigaflops(device: torch.device, size: int = 1536) -> float:
    """Return how many 10⁹ operations a second a product of float32 matrices reaches now, best of five."""
    a, b = torch.randn(2, size, size, device=device)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        # The result is read, so that a GPU has finished.
        float((a @ b)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def words_changed(rows: Sequence[Measurement]) -> list[str]:
    """Return the word errors of each row against those in the first, by the embedded recogniser."""
    recognizer, normalize = offline_asr(), normalizer("whisper", "en")
    waves = [[resample(each.wave.numpy(), WAVE_RATE, METRIC_RATE) for each in row.speech] for row in rows]
    transcripts = [list(map(recognizer.transcribe, of_row)) for of_row in waves]
    cells = [""]
    for texts in transcripts[1:]:
        pairs = [(text, other) for text, other in zip(transcripts[0], texts, strict=True) if normalize(text)]
        errors = [word_errors(*pair, normalize) for pair in pairs]
        words = sum(each.words for each in errors)
        cells.append(f"{sum(each.edits for each in errors) / words:.1%}" if words else "–")
    return cells


def table(rows: Sequence[Measurement], words: Sequence[str] | None = None) -> list[str]:
    """Return the table, in Markdown, with a column of changed words if they were counted."""
    columns = ["", "batch", *(f"{stage} s" for stage in rows[0].seconds), "total s", "CPU s", "RTF", "throughput"]
    columns += ["passes 1, 2", "GFLOP/s", "peak MB", "SSL, acoustic tokens changed"]
    lines_of_cells = [columns, *(_cells(row, rows[0]) for row in rows)]
    if words is not None:
        lines_of_cells = [[*cells, last] for cells, last in zip(lines_of_cells, ("words changed", *words), strict=True)]
    head, *lines = [f"| {' | '.join(cells)} |" for cells in lines_of_cells]
    return [head, "|" + "---|" * len(columns), *lines]


def _cells(row: Measurement, first: Measurement) -> list[str]:
    changed = []
    for kind in ("ssl_tokens", "acoustic_tokens"):
        # The share of tokens that are not those of the table's first row.
        tokens, firsts = (torch.cat([getattr(each, kind).flatten() for each in one.speech]) for one in (row, first))
        changed.append(f"{float((tokens != firsts).double().mean()):.1%}")
    return [
        row.name,
        str(row.batch_size),
        *(f"{seconds:.2f}" for seconds in (*row.seconds.values(), row.total, row.cpu_seconds)),
        f"{row.total / row.audio_seconds:.3f}",
        f"{first.total / row.total:.2f}x",
        f"{row.forwards['stage1']}, {row.forwards['stage2']}",
        f"{row.gigaflops:.0f}",
        f"{row.megabytes:.0f}",
        "" if row is first else ", ".join(changed),
    ]


def machine(device: str) -> list[str]:
    """Return what the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    processor = torch.cuda.get_device_name() if device == "cuda" else (names or [platform.processor()])[0]
    return [
        f"{processor}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}",
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    ]


@torch.no_grad()
def random_metis(
    kind: type[Kind], task: str, device: str, precision: Precision | None, compile: bool = False, seed: int = 0
) -> Kind:
    """Return a `kind` of the published sizes for a task with a source, its weights drawn by `seed`; see `Metis`."""
    # They take as long as trained ones.
    config = {name: part["config"] for name, part in read_index(bundle_folder("paper"))["parts"].items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        features = W2vBertFeatures()
        # The front end reads its weights when it is first used; here it gets random ones instead.
        encoder = build_encoder({"num_hidden_layers": features.layer})
        features.load = lambda: encoder
        semantic = SemanticCodec(config_from(SemanticCodecConfig, config["semantic_codec"]))
        acoustic = AcousticCodec(config_from(AcousticCodecConfig, config["acoustic_codec"]))
        stage1 = Stage1(config_from(Stage1Config, config["stage1"]))
        stage1.cond_adapter = GatedAdapter(features.dim, stage1.config.hidden_size)
        stage1.cond_adapter.gate_scale.fill_(0.1)
        sizes = (config_from(SemanticToAcousticConfig, config[name]) for name in ("s2a_1layer", "s2a_full"))
        first, full = map(SemanticToAcoustic, sizes)
        for model in (stage1, first, full):
            model.to(device).eval()
            if precision is not None:
                prepare_for_inference(model, precision)
    tokenizer = SpeechTokenizer(features, semantic, acoustic).to(device)
    return kind(tokenizer, {task: stage1}, (first, full), compile=compile)
