"""`bench train`: speed, memory and parts of a training step of stage 1, by how batches are made and what is trained.

At the published sizes memory is counted without a machine that has it; at a middling size it is also measured here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from lightning.fabric.utilities.throughput import get_available_flops

from metis_lightning.bench.memory import memory, resident_peak, shared_out
from metis_lightning.bench.options import BenchTrainOptions
from metis_lightning.bench.training_step import TokenRows, TrainingStep, Variant, stage1_of
from metis_lightning.data.batches.sampler import Buckets, fill_batches
from metis_lightning.files import atomic_path, check_output
from metis_lightning.models.flops import training_flops
from metis_lightning.models.stage1 import Stage1Config
from metis_lightning.types import TOKEN_RATE

NANO, MIDDLING = Stage1Config(192, 6, 4, 1024), Stage1Config(384, 8, 6, 1024)
# Seconds of the utterances, equally many for each factor of length.
SHORTEST, LONGEST = 3.0, 30.0
LORA_RANK = 32
PROCESSES = 8


# What is trained, of which memory is counted.
TRAINED = (
    Variant("full"),
    Variant("full, checkpointed", checkpointed=True),
    Variant("LoRA", lora_rank=LORA_RANK),
)
VARIANTS = (
    Variant("padded, random batches", "padded"),
    Variant("buckets of length"),
    Variant("packed, no padding", "packed"),
    Variant("buckets, checkpointed", checkpointed=True),
    Variant("buckets, compiled", compiled=True),
    Variant("buckets, LoRA", lora_rank=LORA_RANK),
    Variant("buckets, tokens made of audio", from_audio=True),
)


def batches_of(kind: str, batch_seconds: float, count: int, seed: int = 0) -> Iterator[list[int]]:
    """Yield the frames of the rows of `count` batches of so many seconds, with the padding that they need."""
    drawn = np.random.default_rng(seed).uniform(np.log(SHORTEST), np.log(LONGEST), 200 * count)
    seconds = np.round(np.exp(drawn) * TOKEN_RATE) / TOKEN_RATE
    if kind == "bucketed":
        found: Sequence[Sequence[int]] = [b.tolist() for b in Buckets(seconds, batch_seconds).batches(None)]
        # From short to long, each as likely as in an epoch.
        found = [found[len(found) * (2 * i + 1) // (2 * count)] for i in range(count)]
    elif kind == "padded":
        found = list(fill_batches(seconds.tolist(), batch_seconds))[:count]
    else:
        ends = np.searchsorted(np.cumsum(seconds), batch_seconds * np.arange(1, count + 1), side="right")
        found = [list(range(first, last)) for first, last in zip([0, *ends], ends, strict=False)]
    yield from ([round(float(seconds[i]) * TOKEN_RATE) for i in batch] for batch in found)


def measure(
    config: Stage1Config, variant: Variant, device: torch.device, batch_seconds: float, count: int
) -> list[str]:
    """Return the cells of a variant's line: what `count` steps took after a first one."""
    step = TrainingStep(config, variant, device)
    lengths = list(batches_of(variant.batches, batch_seconds, count))
    rows = [TokenRows.drawn(each, config.codebook_size, 0, device) for each in lengths]
    step(rows[0])
    step.seconds.clear()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for each in rows:
        step(each)
    total, frames = sum(step.seconds.values()), sum(map(sum, lengths))
    padded = frames if variant.batches == "packed" else sum(len(each) * max(each) for each in lengths)
    backbone = step.model.diff_estimator
    flops = sum(training_flops(backbone, each, config.codebook_size) for each in lengths) / total
    peak = get_available_flops(device, torch.bfloat16)
    cells = [variant.name, f"{frames / total:,.0f}", f"{1 - frames / padded:.1%}"]
    cells.append(f"{flops / 1e9:,.1f}" + (f" (MFU {flops / peak:.1%})" if peak else ""))
    cells += [f"{step.seconds[part] / total:.0%}" for part in ("front end", "forward", "backward", "optimizer")]
    predicted = "—"
    if variant.batches != "packed":
        # Where sequences are not padded, shapes follow from values, which are not there.
        plain = replace(variant, compiled=False, from_audio=False)
        predicted = f"{memory(config, plain, max(lengths, key=sum), device.type == 'cuda')['Total'] / 1e9:.2f}"
    cells.append(predicted)
    return [*cells, f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if device.type == "cuda" else "—"]


def paper_lines(config: Stage1Config, rows: int = 20, frames: int = 500) -> list[list[str]]:
    """Return the lines of the published sizes: memory of a GPU by what is trained, and how it is shared."""
    lines = []
    for variant in TRAINED:
        model = stage1_of(config, variant, torch.device("meta"))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        flops = training_flops(model.diff_estimator, [frames] * rows, config.codebook_size)
        kinds = memory(config, variant, [frames] * rows)
        # DDP's buckets are another copy of the gradients.
        ddp = kinds["Total"] + 4 * count
        cells = [
            variant.name,
            f"{count / 1e6:,.0f} M",
            f"{flops / 1e12:.1f}",
            f"{kinds.get('Activation', 0) / 1e9:.1f}",
        ]
        lines.append([*cells, f"{ddp / 1e9:.1f}", f"{shared_out(config, kinds, PROCESSES) / 1e9:.1f}"])
    return lines


def middling_lines(config: Stage1Config, rows: int = 2, frames: int = 500) -> Iterator[list[str]]:
    """Yield the lines of a middling size: memory of a step in float32 by arithmetic, and as a process here takes it."""
    for variant in TRAINED:
        predicted = memory(config, variant, [frames] * rows, is_mixed=False)["Total"]
        measured = resident_peak(config, variant, [frames] * rows)
        cells = [variant.name, f"{predicted / 1e9:.3f}", f"{measured / 1e9:.3f}"]
        yield [*cells, f"{measured / predicted - 1:+.1%}"]


def run_bench_train(options: BenchTrainOptions) -> None:
    """Run `bench train`. A `UserError` if the table cannot be written."""
    if options.out:
        check_output(options.out)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.scale == "paper":
        print("stage 1 at the published sizes, 10K tokens in rows of 10 s, bf16-mixed, AdamW: by arithmetic\n")
        head = ["trained", "weights", "TFLOP a step", "activations, GB", "a GPU under DDP, GB"]
        head, cells = [*head, f"under FSDP2 on {PROCESSES}, GB"], paper_lines(Stage1Config())
    elif options.scale == "middling":
        print(f"stage 1 of width {MIDDLING.hidden_size}, 1000 tokens in rows of 10 s, float32, AdamW, on this CPU\n")
        head = ["trained", "memory by arithmetic, GB", "growth of a process, GB", "more"]
        cells = list(middling_lines(MIDDLING))
    else:
        head = ["batches", "tokens/s", "padding", "GFLOP/s", "front end", "forward", "backward", "optimizer"]
        head, cells = [*head, "memory by arithmetic, GB", "measured, GB"], []
        for variant in (each for each in VARIANTS if options.compile or not each.compiled):
            cells.append(measure(NANO, variant, device, options.batch_seconds, options.steps))
            print(f"{variant.name}: {cells[-1][1]} tokens/s", flush=True)
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *cells)]
    print(*lines, sep="\n")
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")
