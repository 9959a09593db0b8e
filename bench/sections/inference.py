"""CUDA graphs against passes without them, and the speed of enhancement at the published sizes.

Shape letters: N positions of all sequences, H hidden width, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metis_lightning.bench.generate import random_metis
from metis_lightning.models.backbone import Backbone
from metis_lightning.models.inference import usual_precision
from metis_lightning.models.runner import BUCKET, Graphs, PaddedRunner, Runner
from metis_lightning.pipeline import Metis, Request
from metis_lightning.task_table import TASKS
from sections.report import Report
from sections.timing import gigabytes, seconds
from sections.tokens import waves

ROWS, LENGTHS = (1, 2, 4, 8, 16), (1, 3, 5, 8, 12, 16)
"""30 shapes: rows, and lengths in buckets."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest relative difference from sequences without padding, whose attention runs other kernels."""


@torch.no_grad()
def graphs(report: Report) -> None:
    """Replay 30 shapes of passes on changing inputs, compare each with a pass without graphs, and watch the memory."""
    device = torch.device(report.device)
    dtype = torch.bfloat16 if report.on_gpu else torch.float32
    with device:
        size, layers, heads = (64, 2, 2) if report.tiny else (1536, 16, 16)
        backbone = Backbone(size, layers, heads, cond_mlp=False).to(dtype).eval()
    kept = Graphs(device) if report.on_gpu else None
    replayed, padded, plain = PaddedRunner(backbone, graphs=kept), PaddedRunner(backbone), Runner(backbone)
    shapes = [(rows, length) for rows in ROWS for length in LENGTHS][:: -1 if report.on_gpu else 7]
    worst, memory = {"padded": 0.0, "alone": 0.0}, []
    for rows, length in shapes:
        lengths = [BUCKET * length - 3 * row - 1 for row in range(rows)]
        for seed in (0, 1):
            x, scales = _inputs(sum(lengths), backbone, dtype, seed)
            found = replayed(x, lengths, scales).float()
            for name, runner in (("padded", padded), ("alone", plain)):
                worst[name] = max(worst[name], _difference(found, runner(x, lengths, scales)))
        memory.append(gigabytes(device))
    of = f"relative difference, worst of {len(shapes)} shapes"
    report.most(f"{of}, from eager passes", worst["padded"], 1e-3)
    report.most(f"{of}, from sequences without padding", worst["alone"], TOLERANCE[dtype])
    if kept is None:
        report.skipped("graphs, their memory and speed", "no GPU")
        return
    report.most("graphs kept", len(kept), kept.most)
    report.figure("memory before, after the largest shape, after all", _memory(backbone, memory))
    # Each graph has an input and a result of its own; what lies between comes out of one pool.
    report.most("memory after all over that after the largest", memory[-1] / memory[0], 2.0)
    _speed(report, replayed, plain, backbone, dtype)
    if torch.cuda.device_count() < 2:
        report.skipped("a second GPU gives what the first gives", "one GPU")
    else:
        _second_gpu(report, backbone, dtype)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the relative difference; infinite where it is no number."""
    error = float((found - expected.float()).norm() / expected.float().norm())
    return error if error == error else float("inf")


def _inputs(positions: int, backbone: Backbone, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Return x (1, N, H) and scales (2 L + 1, H)."""
    device = next(backbone.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(1, positions, backbone.hidden_size, generator=generator, device=device)
    scales = 1 + 0.1 * torch.randn(2 * len(backbone.layers) + 1, x.shape[-1], generator=generator, device=device)
    return x.to(dtype), scales.to(dtype)


def _memory(backbone: Backbone, memory: list[float]) -> str:
    weights = sum(p.numel() * p.element_size() for p in backbone.parameters()) / 1e9
    return f"{weights:.2f} (weights), {memory[0]:.2f}, {memory[-1]:.2f} GB"


def _speed(report: Report, replayed: Runner, plain: Runner, backbone: Backbone, dtype: torch.dtype) -> None:
    lengths = [500]
    x, scales = _inputs(500, backbone, dtype, 0)
    times = [1e3 * seconds(lambda r=r: r(x, lengths, scales), x.device, 20) for r in (plain, replayed)]
    report.figure("a pass of one row of 500 frames, eager and replayed", f"{times[0]:.2f}, {times[1]:.2f} ms")


def _second_gpu(report: Report, backbone: Backbone, dtype: torch.dtype) -> None:
    """Judge that a model on the second device gives what it gives on the first, while the first is current."""
    given = [[each.cpu() for each in _inputs(200, backbone, dtype, seed)] for seed in (0, 1)]
    found = []
    for device in (torch.device("cuda", 0), torch.device("cuda", 1)):
        runner = PaddedRunner(backbone.to(device), graphs=Graphs(device))
        found.append([runner(x.to(device), [200], scales.to(device)).float().cpu() for x, scales in given])
    worst = max(_difference(second, first) for first, second in zip(*found, strict=True))
    report.most("relative difference of a second GPU", worst, TOLERANCE[dtype])


def enhancement(report: Report) -> None:
    """Measure speech enhancement of one and of sixteen requests at the published sizes, with random weights."""
    device, precision = torch.device(report.device), usual_precision(report.device)
    length = 1.0 if report.tiny else 10.0
    if report.tiny:
        metis = Metis.from_pretrained("nano", "tse", device=report.device)
    else:
        metis = random_metis(Metis, "se", report.device, precision)
    task = "tse" if report.tiny else "se"
    settings = TASKS["se"].settings
    if report.tiny:
        settings = settings.chosen({"stage2_steps": (2, 2, 1)})
    for rows in (1, 2 if report.tiny else 16):
        waves_of = [Request(task, source=wave) for wave in waves(rows, length)]
        metis.generate(waves_of, 0, settings)  # kernels are chosen, graphs captured
        if report.on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        speech = metis.generate(waves_of, 0, settings)
        timing = speech[0].timing
        assert timing is not None
        factor = timing.total / (rows * length)
        stages = ", ".join(f"{name} {1e3 * value:.0f}" for name, value in timing.seconds.items())
        report.figure(f"{rows} of {length:g} s, {precision}: ms by stage", stages)
        if report.on_gpu:
            report.figure("peak memory", f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")
        if rows == 1 and not report.tiny:
            report.most("real-time factor of one request", factor, 0.02)
        else:
            report.figure(f"real-time factor of {rows} together", f"{factor:.4f}")
