"""A LoRA run that is killed goes on, through the command line, as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer

from documented import REPOSITORY
from metis_lightning.cli import main as cli

HERE = Path(__file__).stem
STEPS = 7


class Killer(Callback):
    """Kills its process at the start of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder: Path, bundle: Path, killed_at: int | None = None, resumed_from: Path | None = None) -> int:
    """Run `fit` in a process of its own, three batches an epoch; return the exit status."""
    checkpoints = {"dirpath": str(folder), "save_top_k": -1, "every_n_train_steps": 1, "filename": "{step}"}
    callbacks = [
        {"class_path": "metis_lightning.callbacks.ema.EMA", "init_args": {"decay": 0.5}},
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": checkpoints},
    ]
    if killed_at is not None:
        callbacks.append({"class_path": f"{HERE}.Killer", "init_args": {"step": killed_at}})
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": STEPS,
        "limit_train_batches": 3,
        "limit_val_batches": 1,
        "val_check_interval": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "callbacks": callbacks,
    }
    folder.mkdir(exist_ok=True)
    (folder / "overlay.yaml").write_text(yaml.safe_dump({"trainer": settings}))
    line = ["fit", "-c", str(REPOSITORY / "configs/tse_lora.yaml"), "-c", str(folder / "overlay.yaml")]
    line += [
        f"--model.base={bundle}",
        "--model.lora_rank=2",
        "--data.batch_seconds=12",
        "--data.init_args.recipe.init_args.max_prompt_seconds=1",
    ]
    line += [f"--ckpt_path={resumed_from}"] if resumed_from else []
    # A fork has the modules loaded already; the command line starts from its arguments all the same.
    process = multiprocessing.get_context("fork").Process(target=_run, args=(line, folder))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _run(line: list[str], folder: Path) -> None:
    os.chdir(folder)
    sys.modules[HERE] = sys.modules[__name__]
    sys.argv = ["metis_lightning"]
    sys.exit(cli.main(line))


def content(folder: Path, step: int) -> dict:
    return torch.load(folder / f"step={step}.ckpt", weights_only=True)


def tensors(checkpoint: dict) -> dict[str, torch.Tensor]:
    """The weights, their average and the optimizer's state of a checkpoint."""
    state = {**checkpoint["state_dict"], **{f"ema.{k}": v for k, v in checkpoint["ema"]["weights"].items()}}
    for index, slots in checkpoint["optimizer_states"][0]["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    return state


@pytest.fixture(scope="module")
def uninterrupted(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert fit(folder, tiny_bundle) == 0
    return folder


@pytest.mark.parametrize("step", [3, 5], ids=["between epochs", "within an epoch"])
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    step: int, uninterrupted: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    assert fit(tmp_path, tiny_bundle, killed_at=step) == -signal.SIGKILL
    assert not (tmp_path / f"step={STEPS}.ckpt").exists()
    last = tmp_path / f"step={step}.ckpt"
    assert fit(tmp_path, tiny_bundle, resumed_from=last) == 0
    whole, resumed = content(uninterrupted, STEPS), content(tmp_path, STEPS)
    expected, found = tensors(whole), tensors(resumed)
    assert expected.keys() == found.keys()
    different = [name for name, value in expected.items() if not torch.equal(value, found[name])]
    assert not different
    assert resumed["epoch"] == whole["epoch"]
    # The weights had moved by then, and moved on.
    assert any(not torch.equal(value, found[name]) for name, value in tensors(content(tmp_path, step)).items())
