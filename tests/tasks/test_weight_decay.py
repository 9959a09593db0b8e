"""Matrices decay and nothing else does, in every module; older checkpoints' optimizers find their weights again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from every_module import MODULES
from metis_lightning.errors import UserError
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.optimization import parameter_groups, regroup
from one_batch import OneBatch, trainer


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest, tiny_bundle: Path) -> TrainableModule:
    torch.manual_seed(0)
    return MODULES[request.param](str(tiny_bundle))


def optimizers(module: TrainableModule) -> list[torch.optim.Optimizer]:
    found = module.configure_optimizers()
    return [found["optimizer"]] if isinstance(found, dict) else list(found[0])


def test_a_step_without_gradient_shrinks_matrices_alone(module: TrainableModule) -> None:
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for optimizer in optimizers(module):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    embeddings = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    decayed = set()
    for name, parameter in module.named_parameters():
        gain = name.endswith(("weight_g", "original0", "alpha", "gamma", "gate_scale", "bias", "norm.weight"))
        still = not parameter.requires_grad or gain or parameter.dim() < 2 or name in embeddings
        expected = before[name] if still else before[name] * (1 - 0.1 * 0.5)
        torch.testing.assert_close(parameter.detach(), expected, msg=name)
        if not still:
            decayed.add(name)
    assert decayed
    assert {p for p in before if module.get_parameter(p).requires_grad} > decayed


def test_every_trained_weight_is_in_one_optimizer_once(module: TrainableModule) -> None:
    chosen = [id(p) for optimizer in optimizers(module) for group in optimizer.param_groups for p in group["params"]]
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == {id(p) for p in module.parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["tse_lora", "acoustic_codec_gan"])
def test_a_run_from_before_goes_on_with_the_moments_of_each_weight(
    kind: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_group(_: object, parameters: list[nn.Parameter]) -> list[dict[str, object]]:
        return [{"params": list(parameters)}]

    torch.manual_seed(0)
    old = MODULES[kind](str(tiny_bundle))
    with monkeypatch.context() as before:
        for place in ("base", "acoustic_codec"):
            before.setattr(f"metis_lightning.tasks.{place}.parameter_groups", one_group)
        run = trainer(tmp_path, 2, limit_val_batches=0)
        run.fit(old, datamodule=OneBatch())
        run.save_checkpoint(tmp_path / "old.ckpt")
    assert [len(optimizer.param_groups) for optimizer in run.optimizers] == [1] * len(run.optimizers)
    moments = {
        name: optimizer.state[p]["exp_avg"].clone()
        for optimizer in run.optimizers
        for name, p in old.named_parameters()
        if p in optimizer.state
    }
    new = MODULES[kind](str(tiny_bundle))
    resumed = trainer(tmp_path, 3, limit_val_batches=0)
    found: dict[str, torch.Tensor] = {}

    class Noted(type(new)):  # type: ignore[misc]
        def on_train_start(self) -> None:
            for optimizer in self.trainer.optimizers:
                for name, p in self.named_parameters():
                    if p in optimizer.state:
                        found[name] = optimizer.state[p]["exp_avg"].clone()

    new.__class__ = Noted
    resumed.fit(new, datamodule=OneBatch(), ckpt_path=tmp_path / "old.ckpt", weights_only=True)
    assert found.keys() == moments.keys()
    assert all(torch.equal(value, found[name]) for name, value in moments.items())
    for optimizer in resumed.optimizers:
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
        # The schedule goes on for both: 1/4 of the rate comes after three steps.
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 / 4] * 2)


def test_an_optimizer_of_other_weights_is_the_users_mistake(tiny_bundle: Path) -> None:
    module = MODULES["tse_lora"](str(tiny_bundle))
    count = len(module.trained()[0])
    state = {"state": {}, "param_groups": [{"params": list(range(count + 2)), "weight_decay": 0.5}]}
    with pytest.raises(UserError, match=rf"optimizer of {count + 2} weights, this run trains {count}"):
        regroup({"optimizer_states": [state], "lr_schedulers": [{}]}, [(module, module.trained()[0])])


def test_matrices_are_told_from_vectors_that_look_like_them() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, (5, 1)))
    both = nn.ModuleList([conv, nn.LayerNorm(4), nn.Embedding(3, 4), nn.Conv1d(6, 6, 7, groups=6)])
    decaying, others = parameter_groups(both, both.parameters())
    assert [tuple(p.shape) for p in decaying["params"]] == [(4, 3, 5, 1), (6, 1, 7)]
    assert len(others["params"]) == 6
