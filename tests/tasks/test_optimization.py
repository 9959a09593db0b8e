"""Learning rates by step: warm-up, and either decay; Muon beside AdamW."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

from metis_lightning.errors import UserError
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.tasks.optimization import MuonAdamW, WarmupCosine, WarmupInverseSqrt, parameter_groups
from one_batch import SCHEDULE, fit


def rates(schedule: type[LambdaLR], steps: int, **options: int) -> list[float]:
    """The rate of each step, of an optimizer whose rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = schedule(optimizer, **options), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_inverse_square_root_rises_to_its_peak_and_is_half_at_four_times_the_warm_up() -> None:
    found = rates(WarmupInverseSqrt, 400, warmup_steps=100)
    assert found[:2] == pytest.approx([0.01, 0.02])
    assert max(found) == found[99] == 1.0
    assert found[399] == pytest.approx(0.5)
    assert rates(WarmupInverseSqrt, 1) == pytest.approx([1 / 32_000])


def test_cosine_rises_and_ends_at_its_final_share() -> None:
    found = rates(WarmupCosine, 111, total_steps=110, warmup_steps=10)
    assert found[:2] == pytest.approx([0.1, 0.2])
    assert found[10] == max(found) == 1.0
    assert found[60] == pytest.approx((1 + 0.01) / 2)
    assert found[110] == pytest.approx(0.01)


def test_muon_moves_matrices_and_adamw_all_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.Conv1d(16, 3, 2))
    apart = copy.deepcopy(model)
    both = MuonAdamW(parameter_groups(model, model.parameters()), lr=0.01, weight_decay=0.1)
    schedule = WarmupCosine(both, total_steps=8, warmup_steps=2)
    muon = Muon([apart[1].weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    still = [apart[0].weight, apart[1].bias, *apart[2].parameters(), apart[3].bias]
    groups = [{"params": [apart[3].weight], "weight_decay": 0.1}, {"params": still, "weight_decay": 0.0}]
    adam = AdamW(groups, lr=0.01, betas=(0.9, 0.98))
    for step in range(6):
        rate = both.param_groups[0]["lr"]
        assert {group["lr"] for group in both.param_groups} == {rate} and rate <= 0.01
        for each in (model, apart):
            out = each[2](each[1](each[0](torch.tensor([[1, 2, 3]]))))
            (each[3](out.transpose(1, 2)) - step).square().mean().backward()
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        both.step()
        schedule.step()
        for ours, theirs in zip(model.parameters(), apart.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            ours.grad = theirs.grad = None
        if step == 3:
            # What a checkpoint holds is enough to go on as before.
            state = copy.deepcopy(both.state_dict())
            both = MuonAdamW(parameter_groups(model, model.parameters()), lr=0.01, weight_decay=0.1)
            schedule, place = WarmupCosine(both, total_steps=8, warmup_steps=2), schedule.state_dict()
            both.load_state_dict(state)
            schedule.load_state_dict(place)


def test_muon_returns_what_the_closure_does_and_takes_any_groups() -> None:
    vector, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 3))
    for parameters in ([vector], [matrix], [vector, matrix]):
        before = [p.detach().clone() for p in parameters]
        optimizer = MuonAdamW([{"params": parameters}])

        def closure(parameters: list[nn.Parameter] = parameters) -> torch.Tensor:
            loss = sum(p.square().sum() for p in parameters)
            loss.backward()
            return loss

        assert optimizer.step(closure) == sum(p.square().sum() for p in before)
        assert not any(torch.equal(p, then) for p, then in zip(parameters, before, strict=True))


@pytest.mark.parametrize("before", [AdamW, MuonAdamW])
def test_states_of_another_optimizer_are_refused(
    before: type[torch.optim.Optimizer], tiny_bundle: Path, tmp_path: Path
) -> None:
    def module(kind: type[torch.optim.Optimizer]) -> TseModule:
        return TseModule(str(tiny_bundle), lora_rank=0, optimizer=partial(kind, lr=1e-3), lr_scheduler=SCHEDULE)

    fit(module(before), tmp_path, 1).save_checkpoint(tmp_path / "a.ckpt")
    fit(module(before), tmp_path, 2, tmp_path / "a.ckpt")
    other = AdamW if before is MuonAdamW else MuonAdamW
    with pytest.raises(UserError, match=f"another optimizer than {other.__name__}.*start_from"):
        fit(module(other), tmp_path, 2, tmp_path / "a.ckpt")
