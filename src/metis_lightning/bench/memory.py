"""Memory of a training step of stage 1: counted on tensors without storage, and measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from metis_lightning.bench.training_step import TokenRows, TrainingStep, Variant, masked_loss, stage1_of
from metis_lightning.errors import UserError
from metis_lightning.models.backbone import AdaptiveRMSNorm
from metis_lightning.models.stage1 import Stage1, Stage1Config

# Bytes from which glibc gives memory back at once: it would keep freed tensors of up to 32 MB, which are not in use.
_GIVEN_BACK = ("MALLOC_MMAP_THRESHOLD_", "65536")


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


def resident_peak(config: Stage1Config, variant: Variant, lengths: Sequence[int]) -> int:
    """Return the most bytes that a new process takes for two steps on the CPU, beyond what it takes before (Linux).

    What the system counts as resident: tensors, what kernels need beside them, and what the allocator holds back.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise UserError("what a process takes of memory is measured on Linux alone")
    name, value = _GIVEN_BACK
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_grown, config, variant, tuple(lengths)).result()
    finally:
        del os.environ[name]
        os.environ.update({} if before is None else {name: before})


def _grown(config: Stage1Config, variant: Variant, lengths: Sequence[int]) -> int:
    small = Stage1Config(16, 1, 2, 16)
    # Libraries take memory when they are first used, whatever the size of the model.
    _two_steps(small, variant, [10, 10])
    # The peak starts anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    _two_steps(config, variant, lengths)
    return _resident("VmHWM") - before


def _two_steps(config: Stage1Config, variant: Variant, lengths: Sequence[int]) -> None:
    """Take two: the states of the optimizer are made in the first."""
    cpu = torch.device("cpu")
    step, rows = TrainingStep(config, variant, cpu), TokenRows.drawn(lengths, config.codebook_size, 0, cpu)
    for _ in range(2):
        step(rows)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
