"""Learning-rate schedules, as factors of the optimizer's rate, Muon, and the groups of weights that decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
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


class MuonAdamW(Optimizer):
    """Muon for matrices, AdamW for all else: embeddings, vectors, convolutions (2502.16982, whose rates are AdamW's).

    One optimizer to Lightning and to a checkpoint. What `parameter_groups` leaves without weight decay is not a matrix.

    Args:
        params: groups of parameters, of which those with `weight_decay` 0 are AdamW's.
        lr, weight_decay: of both; Muon's updates are scaled to the size that AdamW's have.
        betas: AdamW's.
        momentum: Muon's.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        matrices, others = [], []
        for group in params:
            decays = group.get("weight_decay", weight_decay) != 0
            both: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
            for parameter in group["params"]:
                both[decays and parameter.dim() == 2].append(parameter)
            others += [{**group, "params": both[0]}] if both[0] else []
            matrices += [{**group, "params": both[1]}] if both[1] else []
        rates: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        parts: list[Optimizer] = []
        if matrices:
            parts.append(Muon(matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw", **rates))
        if others:
            parts.append(AdamW(others, betas=betas, **rates))
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a checkpoint holds, for both parts."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take a step of both; return the loss that the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def _share(self) -> None:
        """Have both parts work on this optimizer's groups and state, which schedules and checkpoints know."""
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:end], self.state, end


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


def check_same_kind(checkpoint: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Refuse to give an optimizer the states of another kind, as Muon's to AdamW; a `UserError` says what to do."""
    kinds = []
    for groups in (checkpoint.get("optimizer_states") or [{}])[0].get("param_groups", ()), optimizer.param_groups:
        kinds.append([{"betas", "momentum"} & group.keys() for group in groups])
    if kinds[0] and kinds[0] != kinds[1]:
        raise UserError(
            f"the checkpoint was made with another optimizer than {type(optimizer).__name__}: name that of its run, or "
            "give the checkpoint as --model.start_from in place of --ckpt_path, which takes its weights alone"
        )
