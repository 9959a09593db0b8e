"""Every command of README and docs runs, shortened, in a folder that has the repository's configs and benchmarks."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command import run_command
from documented import PROGRAM, REPOSITORY, blocks, runnable_commands
from metis_lightning.cli.command import CommandParser
from metis_lightning.cli.main import COMMANDS as OWN
from metis_lightning.cli.main import TRAINER_COMMANDS
from published_layout import write_full

COMMANDS = runnable_commands()
OURS = [command for command in COMMANDS if command.startswith(PROGRAM)]
SHORTER = {
    "fit": "--trainer.max_steps=2 --trainer.limit_val_batches=1 --trainer.val_check_interval=2 --data.batch_seconds=15 "
    "--trainer.log_every_n_steps=1 --trainer.enable_progress_bar=false",
    # What so few steps give may well be of no use.
    "evaluate": "--limit=1 --num-steps=2 --max-failed-share=1",
    "tables": "",
    "doctor": "--no-steps",
    "compare": "",
    "prepare": "--trainer.enable_progress_bar=false",
    "bench data": "--seconds=1",
    "bench generate": "--seconds=1 --batch-sizes 1 --threads 1",
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


def test_the_pages_have_only_commands_that_are_run_here() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert any(command.startswith("make ") for command in COMMANDS)
    for command in COMMANDS:
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in makefile
        else:
            assert command in OURS, f"no test runs: {command}"


def test_commands_stand_in_blocks_that_say_so() -> None:
    """A command in a block of another kind would not be run by the test below."""
    for block in blocks():
        assert block.language, f"{block.page}: a block without a language"
        assert block.language == "sh" or not re.search(r"^\W*(python -m|pip|make) ", block.text, re.MULTILINE)
        assert not block.needs or block.needs.startswith("needs "), block.needs


NEEDY = [command for block in blocks() if block.needs and block.language == "sh" for command in block.commands]


@pytest.mark.parametrize("command", NEEDY)
def test_a_command_that_needs_something_has_options_and_files_that_are_there(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.removeprefix(PROGRAM))
    if command.startswith("pip install"):
        extras = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"])
        assert set(re.findall(r"[a-z]+", command.partition("[")[2].partition("]")[0])) <= extras
    elif not command.startswith(PROGRAM):
        file = next(word for word in words if "=" not in word)
        assert file in ("pip", "docker", "sbatch") or (REPOSITORY / file).is_file()
    elif words[0] in TRAINER_COMMANDS:
        (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
        (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
        status = run_command([*words, "--print_config"], tmp_path, tmp_path / "said.txt")
        assert status == 0, (tmp_path / "said.txt").read_text()[-2000:]
    else:
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in OWN)
        parser = CommandParser(name, OWN[name])
        given = words[len(name.split()) :]
        parser.options(parser.split(given)[0] if OWN[name].takes_config else given)


@pytest.mark.timeout(2400)
def test_the_commands_run_as_written_but_shorter(workspace: Path, tmp_path: Path) -> None:
    """In the order of the pages: `tables` needs the results of `evaluate`."""
    said = ""
    for command in OURS:
        words = shlex.split(command.removeprefix(PROGRAM))
        extra = [] if "--print_config" in words else shlex.split(SHORTER.get(" ".join(words[:2])) or SHORTER[words[0]])
        if "runs/tokens" in words:
            extra.append("--data.max_seconds=2")
        status = run_command([*words, *extra], workspace, tmp_path / "said.txt")
        output = (tmp_path / "said.txt").read_text()
        assert status == 0, f"{command}\n{output[-3000:]}"
        said += output
    shown = next(block for block in blocks() if block.page == "README.md" and block.language == "text")
    for line in shown.text.splitlines():
        # Sizes and counts are those of the longer runs.
        assert line.split(" (")[0] in said, f"README shows what no command says: {line}"

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
