"""Learning-rate schedules, as factors of the optimizer's rate, and the groups of weights that decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metis_lightning.errors import UserError


class WarmupInverseSqrt(LambdaLR):
    """Linear warm-up, then decay with 1/sqrt(step) (MaskGCT, 2409.00750, section 4.1: 32K warm-up steps)."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 32_000) -> None:
        def factor(step: int) -> float:
            return min((step + 1) / warmup_steps, math.sqrt(warmup_steps / (step + 1)))

        super().__init__(optimizer, factor)


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to `final` of the rate at `total_steps`, for runs of known length."""

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 100, final: float = 0.01) -> None:
        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)


def parameter_groups(module: nn.Module, parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return the groups of an optimizer over some parameters of a module: those that decay, then the others."""
    chosen, embeddings = list(parameters), {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    # Matrices do; biases, scales of norms, gains, gates and embeddings do not, as usual: the paper says AdamW, no more.
    # The gains of weight-normalised convolutions are (C, 1, 1): vectors for all that matters.
    decays = [id(p) not in embeddings and sum(size > 1 for size in p.shape) > 1 for p in chosen]
    return [
        {"params": [p for p, decay in zip(chosen, decays, strict=True) if decay]},
        {"params": [p for p, decay in zip(chosen, decays, strict=True) if not decay], "weight_decay": 0.0},
    ]


def regroup(checkpoint: Mapping[str, Any], optimizers: Sequence[tuple[nn.Module, Sequence[nn.Parameter]]]) -> None:
    """Give a checkpoint's optimizers that have one group, as once all had, today's; a `UserError` if weights differ."""
    old = (checkpoint.get("optimizer_states", ()), checkpoint.get("lr_schedulers", ()), optimizers)
    for state, schedule, (module, parameters) in zip(*old, strict=False):
        if (count := sum(len(group["params"]) for group in state["param_groups"])) != len(parameters):
            raise UserError(
                f"the checkpoint has an optimizer of {count} weights, this run trains {len(parameters)}: it cannot go "
                "on; compare with the config and the release of its run"
            )
        if len(state["param_groups"]) > 1:
            continue
        place = {id(p): index for index, p in enumerate(parameters)}
        groups = parameter_groups(module, parameters)
        order = [place[id(p)] for group in groups for p in group["params"]]
        state["state"] = {new: state["state"][then] for new, then in enumerate(order) if then in state["state"]}
        settings, first = state["param_groups"][0], 0
        state["param_groups"] = []
        for group in groups:
            numbers = list(range(first, first := first + len(group["params"])))
            state["param_groups"].append({**settings, **group, "params": numbers})
        for name in ("base_lrs", "_last_lr"):
            schedule[name] = schedule[name] * len(groups)
