"""What makes training comfortable: the curve by mask ratio, gradient norms, accumulation, precision, switches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from metis_lightning.callbacks.gradients import GradientNorm
from metis_lightning.callbacks.switches import BackboneSwitches, TokensPerUpdate, accumulation
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.recipe import PlainRecipe
from metis_lightning.errors import UserError
from metis_lightning.models.backbone import Backbone
from metis_lightning.models.masking import Masking, mask_ratio
from metis_lightning.tasks.base import MaskRatioCurve
from metis_lightning.weights.build import load_base
from one_batch import OneBatch, make_tse, speech_batch, trainer


def test_the_curve_is_the_scores_of_the_rows_in_each_bin() -> None:
    generator = torch.Generator().manual_seed(0)
    t, mask = torch.tensor([0.05, 0.5, 1.0]), torch.rand(3, 20, generator=generator) < 0.5
    rows = mask.nonzero()[:, 0]
    logits, targets = torch.randn(len(rows), 7, generator=generator), torch.randint(7, (len(rows),))
    curve = MaskRatioCurve()
    half = mask.clone()
    half[2] = False
    for part, kept in ((half, rows < 2), (mask & ~half, rows == 2)):
        curve.update(logits[kept], targets[kept], Masking(t, part, torch.zeros_like(part)))
    values = curve.compute()
    assert [name for name in values if name.startswith("acc")] == [
        "acc_mask_00-20",
        "acc_mask_60-80",
        "acc_mask_80-100",
    ]
    assert [int(5 * ratio) for ratio in mask_ratio(t[:2])] == [0, 3]
    for row, name in enumerate(("mask_00-20", "mask_60-80", "mask_80-100")):
        own = rows == row
        loss = torch.nn.functional.cross_entropy(logits[own], targets[own])
        torch.testing.assert_close(values[f"loss_{name}"], loss)
        assert float(values[f"acc_{name}"]) == pytest.approx(
            float((logits[own].argmax(1) == targets[own]).float().mean())
        )


class Gradient(Callback):
    norm = 0.0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norm = float(torch.cat(gradients).norm())


def test_a_run_logs_the_gradients_norm_and_the_curve(tiny_bundle: Path, tmp_path: Path) -> None:
    run, measured = trainer(tmp_path, 2), Gradient()
    run.callbacks += [GradientNorm(), measured]
    run.fit(make_tse(tiny_bundle), datamodule=OneBatch())
    assert float(run.callback_metrics["train/grad_norm"]) == pytest.approx(measured.norm, rel=1e-5)
    assert measured.norm > 0
    curve = {name for name in run.callback_metrics if name.startswith("val/acc_mask_")}
    assert 1 <= len(curve) <= 2


@pytest.mark.parametrize(("tokens", "batch", "count"), [(80_000, 80_000, 1), (80_000, 10_000, 8), (10_000, 3_200, 3)])
def test_batches_add_up_to_the_tokens(tokens: int, batch: float, count: int) -> None:
    assert accumulation(tokens, batch) == count


def test_tokens_that_no_number_of_batches_gives_are_refused_with_a_cure() -> None:
    with pytest.raises(UserError, match=r"batch_seconds by 0\.5,"):
        accumulation(10_000, 20_000)
    with pytest.raises(UserError, match=r"batch_seconds by 0\.75,"):
        accumulation(3_000, 4_000)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_an_update_has_the_tokens_whatever_the_processes_and_the_padding(processes: int) -> None:
    data = StarterDataModule(PlainRecipe(), batch_seconds=200)
    trainer = SimpleNamespace(datamodule=data, world_size=processes, accumulate_grad_batches=1)
    TokensPerUpdate(80_000).setup(trainer, SimpleNamespace(automatic_optimization=True), "fit")
    lengths, batches = data.corpora()["train"].utterances.seconds, list(data.train_dataloader().batch_sampler)
    heard = [50 * sum(lengths[index] for _, index in batch) for batch in batches]
    tokens = trainer.accumulate_grad_batches * processes * sum(heard) / len(heard)
    assert tokens == pytest.approx(80_000, rel=0.1)


def test_switches_reach_every_backbone_and_change_no_weight(tiny_bundle: Path, tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [BackboneSwitches(checkpoint_activations=True)]):
        module, run = make_tse(tiny_bundle), trainer(tmp_path, 2)
        run.callbacks += callbacks
        run.fit(module, datamodule=OneBatch())
        weights.append(module.state_dict())
        backbones = [m for m in module.modules() if isinstance(m, Backbone)]
        assert [b.checkpoint_activations for b in backbones] == [bool(callbacks)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    with pytest.raises(UserError, match="no transformer"):
        BackboneSwitches().setup(run, lightning.LightningModule(), "fit")


def test_the_compile_switch_compiles_in_place(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Backbone] = []
    monkeypatch.setattr(Backbone, "compile", lambda self, **_: compiled.append(self))
    module = make_tse(tiny_bundle)
    names = set(module.state_dict())
    BackboneSwitches(compile=True).setup(SimpleNamespace(), module, "fit")
    assert compiled == [module.model.diff_estimator]
    assert set(module.state_dict()) == names


def test_mixed_precision_does_not_reach_the_tokens(tiny_bundle: Path) -> None:
    module, batch = make_tse(tiny_bundle), speech_batch()

    def front_end() -> tuple[Tensor, Tensor, Tensor]:
        tokenizer = module.tokenizer
        return (
            tokenizer.ssl_tokens(batch.wave, batch.lengths)[0],
            tokenizer.ssl_features(batch.wave, batch.lengths)[0],
            tokenizer.acoustic_tokens(batch.wave),
        )

    exact = front_end()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = front_end()
    assert all(torch.equal(first, second) for first, second in zip(exact, mixed, strict=True))


def test_zero_gate_and_zero_lora_leave_the_bases_logits(tiny_bundle: Path) -> None:
    module, batch = make_tse(tiny_bundle).eval(), speech_batch()
    values = module.losses(batch, torch.Generator().manual_seed(0))
    assert float(values["loss"]) == float(values["base_loss"])
    tokens, _ = module.tokenizer.ssl_tokens(batch.wave, batch.lengths)
    mask, t, condition = tokens % 2 == 0, torch.tensor([0.2, 0.9]), module.condition(batch)
    with torch.no_grad():
        ours = module.model(tokens, mask, t, condition=condition)
        base = load_base(tiny_bundle)[0](tokens, mask, t)
    assert torch.equal(ours, base)
