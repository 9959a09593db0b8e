"""Every yaml under configs/ and experiments/ builds what its comment says; the main one trains on two processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning import LightningDataModule

from documented import REPOSITORY, config_commands
from metis_lightning.data.batches.module import PreparedDataModule
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.trainer.main import MetisCLI
from said import disagreements

# The paper's scale has sizes without weights: tests/test_scale.py builds it.
COMMANDS = [command for command in config_commands() if "configs/scale/paper.yaml" not in command]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "+".join(Path(c).stem for c in command[2::2]))
def test_a_config_builds_its_module_data_and_trainer(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    given = {"trainer.accelerator": "cpu", "trainer.devices": "1"}
    cli = MetisCLI([*command[1:], *(f"--{key}={value}" for key, value in given.items())], {}, run=False)
    assert isinstance(cli.model, TrainableModule)
    if not any(word.startswith("--") for word in command):
        effective = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
        assert disagreements(command[2::2], effective, tuple(given)) == {}
    assert isinstance(cli.datamodule, LightningDataModule)
    configured = cli.model.configure_optimizers()
    # Adversarial training has two, beside their schedules.
    optimizers = [configured["optimizer"]] if isinstance(configured, dict) else configured[0]
    trained = sum(p.numel() for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    assert trained == sum(p.numel() for p in cli.model.parameters() if p.requires_grad) > 0
    folders = {str(callback.dirpath) for callback in cli.trainer.checkpoint_callbacks}
    assert folders
    assert all(folder.endswith(f"runs/{cli.trainer.logger.name}/checkpoints") for folder in folders)


@pytest.mark.parametrize(
    "experiment", ["experiments/table_03/tse_lora_32.yaml", "experiments/table_01/tts_lora_32_1k.yaml"]
)
def test_a_corpus_laid_over_an_experiment_leaves_its_hours_and_recipe(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    run, options = ["-c", experiment], ["--trainer.accelerator=cpu", "--trainer.devices=1"]
    alone = MetisCLI([*run, *options], {}, run=False).datamodule
    over = MetisCLI([*run, "-c", "configs/data/emilia.yaml", *options], {}, run=False).datamodule
    assert isinstance(over, PreparedDataModule)
    assert over.hours == alone.hours in (1000, 10_000)
    assert type(over.recipe) is type(alone.recipe)
    assert over.selection.min_per_speaker == 2


def test_two_processes_train_together(tmp_path: Path, tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "metis_lightning", "fit", "-c", "configs/tse_lora.yaml"]
    command += [f"--model.base={tiny_bundle}", "--model.lora_rank=2", "--data.batch_seconds=15"]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_fork"]
    command += ["--trainer.max_steps=3", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=3"]
    command += [f"--trainer.logger.save_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    overlay = tmp_path / "overlay.yaml"
    callback = "lightning.pytorch.callbacks.ModelCheckpoint"
    saved = {"dirpath": str(tmp_path / "checkpoints"), "save_last": True, "every_n_train_steps": 3}
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": callback, "init_args": saved}]}}))
    done = subprocess.run([*command, "-c", str(overlay)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    moved = [v for k, v in checkpoint["state_dict"].items() if "lora_B" in k]
    assert moved
    assert all(value.abs().sum() > 0 for value in moved)
