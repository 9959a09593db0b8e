"""EMA of a LoRA run: what it averages, which weights validation sees, and that it survives a resume bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from metis_lightning.callbacks.ema import EMA
from metis_lightning.errors import UserError
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.weights.build import load_task_model
from metis_lightning.weights.export import export
from one_batch import OneBatch, make_tse


class Recorder(Callback):
    """Keeps the trainable weights after each update and those that each validation sees."""

    def __init__(self) -> None:
        self.raw: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.raw.append(weights(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.validated.append(weights(pl_module))


def weights(module: LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def trainer(folder: Path, steps: int, *callbacks: Callback) -> Trainer:
    return lightning.Trainer(
        max_steps=steps,
        limit_train_batches=10,
        val_check_interval=5,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


@pytest.fixture(scope="module")
def run(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder, EMA, TseModule]:
    folder = tmp_path_factory.mktemp("ema")
    module, ema, recorder = make_tse(tiny_bundle), EMA(decay=0.5), Recorder()
    fit = trainer(folder, 5, ema, recorder, ModelCheckpoint(folder, "a", every_n_train_steps=5))
    start = weights(module)
    fit.fit(module, datamodule=OneBatch())
    recorder.raw.insert(0, start)
    return folder, recorder, ema, module


def test_the_average_is_the_formula_and_validation_sees_it(run) -> None:
    folder, recorder, _, module = run
    average = recorder.raw[0]
    for update, raw in enumerate(recorder.raw[1:]):
        decay = min(0.5, (1 + update) / (10 + update))
        average = {name: decay * value + (1 - decay) * raw[name] for name, value in average.items()}
    checkpoint = torch.load(folder / "a.ckpt", weights_only=True)
    assert checkpoint["ema"]["updates"] == 5
    for name, value in checkpoint["ema"]["weights"].items():
        torch.testing.assert_close(value, average[name])
    assert equal(recorder.validated[-1], checkpoint["ema"]["weights"])
    assert equal(checkpoint["state_dict"], recorder.raw[-1])
    assert equal(weights(module), recorder.raw[-1])
    assert all("lora_" in name or "cond_adapter" in name for name in checkpoint["ema"]["weights"])


def test_resuming_goes_on_with_the_average(run, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = run[0]
    states = []
    for start in (None, folder / "a.ckpt"):
        module, ema = make_tse(tiny_bundle), EMA(decay=0.5)
        fit = trainer(tmp_path, 8, ema)
        fit.fit(module, datamodule=OneBatch(), ckpt_path=start, weights_only=True)
        fit.save_checkpoint(tmp_path / "b.ckpt")
        states.append(torch.load(tmp_path / "b.ckpt", weights_only=True))
    whole, resumed = states
    assert resumed["ema"]["updates"] == 8
    assert equal(whole["state_dict"], resumed["state_dict"])
    assert equal(whole["ema"]["weights"], resumed["ema"]["weights"])


def test_inference_and_export_take_what_validation_saw(run, tiny_bundle: Path, tmp_path: Path) -> None:
    folder, recorder, _, _ = run
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    export(folder / "a.ckpt", bundle)
    loaded = load_task_model(str(folder / "a.ckpt"), "tse", str(tiny_bundle)).model.state_dict()
    exported = load_task_model(str(bundle), "tse", str(bundle)).model.state_dict()
    for name, value in recorder.validated[-1].items():
        assert torch.equal(loaded[name.removeprefix("model.")], value)
        assert torch.equal(exported[name.removeprefix("model.")], value.bfloat16().float())


@pytest.mark.parametrize("choice", ["ema", "raw"])
def test_validate_takes_the_weights_it_is_told_to(run, choice: str, tiny_bundle: Path, tmp_path: Path) -> None:
    folder, recorder, _, _ = run
    seen = Recorder()
    check = trainer(tmp_path, 1, EMA(validate_with=choice), seen)
    check.validate(make_tse(tiny_bundle), datamodule=OneBatch(), ckpt_path=folder / "a.ckpt", verbose=False)
    assert equal(seen.validated[0], recorder.validated[-1] if choice == "ema" else recorder.raw[-1])


def test_settings_and_strange_averages_are_refused(run, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validate_with"):
        EMA(validate_with="best")
    checkpoint = torch.load(run[0] / "a.ckpt", weights_only=True)
    checkpoint["ema"]["weights"].popitem()
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="EMA weights do not fit: they lack"):
        trainer(tmp_path, 6, EMA()).fit(
            make_tse(tiny_bundle), datamodule=OneBatch(), ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )
