"""`bench train`: speed, memory and parts of a training step of stage 1, by how batches are made and what is trained.

At the published sizes memory is counted on tensors without storage (`FakeTensorMode`, `MemTracker`), as no machine is
needed for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from metis_lightning.bench.options import BenchTrainOptions
from metis_lightning.bench.training_step import TokenRows, TrainingStep, Variant, masked_loss, stage1_of
from metis_lightning.data.batches.sampler import Buckets, fill_batches
from metis_lightning.files import atomic_path, check_output
from metis_lightning.models.backbone import AdaptiveRMSNorm
from metis_lightning.models.flops import training_flops
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.types import TOKEN_RATE

NANO = Stage1Config(192, 6, 4, 1024)
# Seconds of the utterances, equally many for each factor of length.
SHORTEST, LONGEST = 3.0, 30.0
LORA_RANK = 32
PROCESSES = 8


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


def memory(config: Stage1Config, variant: Variant, lengths: Sequence[int], is_mixed: bool = True) -> dict[str, float]:
    """Return the bytes at the peak of a step, `Total` and by kind, counted on tensors that have no storage."""
    cpu = torch.device("cpu")
    model = stage1_of(config, variant, torch.device("meta"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in model.modules():
            for name, weight in list(part.named_parameters(recurse=False)):
                if weight.requires_grad:
                    part.register_parameter(name, nn.Parameter(torch.empty(weight.shape)))
                else:
                    # The tracker knows no weights that take no gradient.
                    delattr(part, name)
                    part.register_buffer(name, torch.empty(weight.shape))
        shape = (len(lengths), max(lengths))
        numbers, masked = torch.zeros(shape, dtype=torch.long), round(sum(lengths) * 2 / np.pi)
        places = torch.zeros(masked, dtype=torch.long)
        rows = TokenRows(numbers, numbers.bool(), torch.rand(shape[0]), places, tuple(lengths))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            # The states of the optimizer are made in the first.
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
                    loss = masked_loss(model, rows)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                tracker.reset_mod_stats()
        found = tracker.get_tracker_snapshot("peak")[cpu]
    return {getattr(kind, "value", str(kind)): float(count) for kind, count in found.items()}


def shared_out(config: Stage1Config, kinds: dict[str, float], processes: int) -> float:
    """Return the peak bytes on each of `processes` that share the weights out, of a peak on one that has them all.

    Weights, gradients and states are divided. Gathered, and so whole, are the norms' maps and what is in no block, and
    of blocks the one that computes and the one that comes next (FSDP2's prefetch), with a gradient of the first.
    """
    states = sum(kinds.get(kind, 0.0) for kind in ("Parameter", "Buffer", "Gradient", "Optstate"))
    with torch.device("meta"):
        model = Stage1(config)
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in _units(model)}
    block = size.pop("block")
    return kinds["Total"] - states + states / processes + 4 * (sum(size.values()) + 3 * block)


def _units(model: Stage1) -> Iterator[tuple[str, nn.Module]]:
    backbone = model.diff_estimator
    block = backbone.layers[0]
    yield "block", nn.ModuleList([block.get_submodule("self_attn"), block.get_submodule("mlp")])
    yield "norms", nn.ModuleList([part for part in backbone.modules() if isinstance(part, AdaptiveRMSNorm)])
    yield "rest", nn.ModuleList([model.cond_emb, model.mask_emb, model.to_logit, backbone.diff_step_mlp])


def paper_lines(config: Stage1Config, rows: int = 20, frames: int = 500) -> list[list[str]]:
    """Return the lines of the published sizes: memory of a GPU by what is trained, and how it is shared."""
    lines = []
    for name, variant in (
        ("full", Variant("full")),
        ("full, checkpointed", Variant("full", checkpointed=True)),
        ("LoRA", Variant("LoRA", lora_rank=LORA_RANK)),
    ):
        model = stage1_of(config, variant, torch.device("meta"))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        flops = training_flops(model.diff_estimator, [frames] * rows, config.codebook_size)
        kinds = memory(config, variant, [frames] * rows)
        # DDP's buckets are another copy of the gradients.
        ddp = kinds["Total"] + 4 * count
        cells = [name, f"{count / 1e6:,.0f} M", f"{flops / 1e12:.1f}", f"{kinds.get('Activation', 0) / 1e9:.1f}"]
        lines.append([*cells, f"{ddp / 1e9:.1f}", f"{shared_out(config, kinds, PROCESSES) / 1e9:.1f}"])
    return lines


def run_bench_train(options: BenchTrainOptions) -> None:
    """Run `bench train`. A `UserError` if the table cannot be written."""
    if options.out:
        check_output(options.out)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.scale == "paper":
        print("stage 1 at the published sizes, 10K tokens in rows of 10 s, bf16-mixed, AdamW: by arithmetic\n")
        head = ["trained", "weights", "TFLOP a step", "activations, GB", "a GPU under DDP, GB"]
        head, cells = [*head, f"under FSDP2 on {PROCESSES}, GB"], paper_lines(Stage1Config())
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
