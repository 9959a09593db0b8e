"""Every fine-tuning config takes a step in bfloat16 mixed precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from documented import REPOSITORY, config_commands
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.trainer.main import MetisCLI
from metis_lightning.trainer.overlays import class_names

FINETUNE = f"{FinetuneModule.__module__}.{FinetuneModule.__qualname__}"


def finetunes(command: list[str]) -> bool:
    """Whether a documented command is of a fine-tuning config alone, without overlays."""
    text = (REPOSITORY / command[2]).read_text()
    named = [line.split()[-1] for line in text.splitlines() if line.startswith("  class_path: metis_lightning.tasks.")]
    return len(command) == 3 and bool(named) and FINETUNE in class_names(named[0])


COMMANDS = [command for command in config_commands() if finetunes(command)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(command[2]).stem)
def test_a_step_in_bfloat16(
    command: list[str], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    options = ["--trainer.precision=bf16-mixed", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    options += ["--trainer.devices=1", f"--model.base={tiny_bundle}", "--data.batch_seconds=6"]
    options += ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"]
    cli = MetisCLI([*command[1:], *options], {}, run=False)
    before = {name: value.clone() for name, value in cli.model.named_parameters() if value.requires_grad}
    cli.trainer.callbacks = [c for c in cli.trainer.callbacks if not hasattr(c, "every_n_validations")]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    moved = [not torch.equal(value, before[name]) for name, value in cli.model.named_parameters() if name in before]
    assert any(moved)
    assert all(value.dtype == torch.float32 for value in cli.model.parameters())
