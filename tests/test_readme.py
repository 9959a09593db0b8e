"""Every command of the README runs, shortened, in a folder that has the repository's configs and benchmarks."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command import run_command
from documented import PROGRAM, REPOSITORY, readme_commands
from published_layout import write_full

COMMANDS = readme_commands()
OURS = [command for command in COMMANDS if command.startswith(PROGRAM)]
SHORTER = {
    "fit": "--trainer.max_steps=2 --trainer.limit_val_batches=1 --trainer.val_check_interval=2 --data.batch_seconds=15 "
    "--trainer.log_every_n_steps=1 --trainer.enable_progress_bar=false",
    # What so few steps give may well be of no use.
    "evaluate": "--limit=1 --num-steps=2 --max-failed-share=1",
    "tables": "",
    "compare": "",
    "prepare": "--trainer.enable_progress_bar=false",
    "bench": "--seconds=1",
    "import": "",
    "generate": "--num-steps=2 --stage2-steps 2 1 1",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a path with spaces")
    (folder / "evaluation").mkdir()
    for name in ("configs", "experiments", "evaluation/benchmarks"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_full(folder / "published")
    return folder


def test_the_readme_has_only_commands_that_are_run_here() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert any(command.startswith("make ") for command in COMMANDS)
    for command in COMMANDS:
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in makefile
        else:
            assert command in OURS, f"no test runs: {command}"


@pytest.mark.timeout(1200)
def test_the_commands_run_as_written_but_shorter(workspace: Path, tmp_path: Path) -> None:
    """In the README's order: `tables` needs the results of `evaluate`."""
    for command in OURS:
        words = shlex.split(command.removeprefix(PROGRAM))
        extra = [] if "--print_config" in words else shlex.split(SHORTER[words[0]])
        if "--limit" in words:
            extra = shlex.split(SHORTER["evaluate"])
        if "runs/tokens" in words:
            extra.append("--data.max_seconds=2")
        status = run_command([*words, *extra], workspace, tmp_path / "said.txt")
        assert status == 0, f"{command}\n{(tmp_path / 'said.txt').read_text()[-3000:]}"

    assert (workspace / "runs/tse_lora/checkpoints/last.ckpt").stat().st_size < 20e6
    events = EventAccumulator(str(workspace / "runs" / "tse_lora"))
    events.Reload()
    tags = events.Tags()
    for kind, suffix in (("audio", ""), ("images", "_mel")):
        shown = {tag.rsplit("/", 1)[1] for tag in tags[kind]}
        assert shown == {f"{name}{suffix}" for name in ("source", "target", "generated")}
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "val/base_acc"} <= set(tags["scalars"])

    table = (workspace / "evaluation/tables/table_03.md").read_text()
    for system in ("input", "target", "resynthesis", "nano", "Metis-TSE LoRA 32", "WeSep"):
        assert system in table
    assert (workspace / "evaluation/tables/tables.html").is_file()
    assert (workspace / "bundles/metis/omni.safetensors").is_file()
    page = (workspace / "evaluation/compare/tse/index.html").read_text()
    assert page.count("data:audio/ogg;base64,") >= 3
