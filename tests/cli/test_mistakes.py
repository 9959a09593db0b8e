"""Thirty deliberate mistakes: each gets one line that says what is wrong and what to do next, and status 2."""

from __future__ import annotations

import inspect
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import yaml

from documented import REPOSITORY, config_commands
from every_task import voice
from metis_lightning.cli.main import main
from metis_lightning.errors import UserError
from metis_lightning.trainer.config_keys import _source, check_config
from metis_lightning.trainer.merging import find_class
from small_results import rows_of, write_run
from tiny_run import Run

# What is typed, what the line must say, in this order: what is wrong, and the next step.
CONFIG_MISTAKES = {
    "a key of the module": ("fit -c tse_lora --model.lora_rnk 8", "'lora_rnk'.*did you mean 'lora_rank'"),
    "a key of the trainer": ("fit -c tse_lora --trainer.max_stpes 8", "max_stpes.*did you mean 'trainer.max_steps'"),
    "a key of the recipe": ("fit -c tse_lora --data.recipe.snr_rnge 3", "'snr_rnge'.*did you mean 'snr_range'"),
    "a key in a file": ("fit -c tse_lora -c bad.yaml", r"'batch_secnds'.*bad.yaml:2.*did you mean 'batch_seconds'"),
    "a root of the config": ("fit -c tse_lora -c root.yaml", "'trainr'.*did you mean 'trainer'"),
    "the name of a config": ("fit -c tse_lroa", "tse_lroa: no such file.*did you mean.*'tse_lora'"),
    "a class": (
        "fit -c tse_lora --model metis_lightning.tasks.conditioned.TseModul",
        "no class .*TseModul.*did you mean 'TseModule'",
    ),
    "a number": ("fit -c tse_lora --trainer.max_steps many", "max_steps.*must be a whole number, not 'many'"),
    "no manifest": ("fit -c tse_lora -c data/emilia", "emilia.jsonl: no such manifest; `prepare` makes it"),
    "no checkpoint": ("validate -c tse_lora --ckpt_path last.cpkt", "last.cpkt does not exist; check --ckpt_path"),
    "no config file": ("fit -c", "-c: the name of a config file is missing"),
}
MISTAKES = {
    "a command": ("genrate --task tse", "unknown command 'genrate': did you mean 'generate'"),
    "the second word of a command": ("prepare emila --root .", "'prepare emila': did you mean 'prepare emilia'"),
    "an option": ("generate --task tse --sorce a.wav --out o.wav", "--sorce.*did you mean --source"),
    "a task of generate": ("generate --task tes --source a.wav --prompt a.wav --out o.wav", "tes.*did you mean 'tse'"),
    "a task of evaluate": ("evaluate --task tsse", "tsse.*did you mean 'tse'"),
    "no source": ("generate --task tse --source no.wav --prompt a.wav --out o.wav", "no.wav: no such file.*--source"),
    "no prompt": ("generate --task tse --source a.wav --out o.wav", "needs a prompt.*--prompt"),
    "a text for sound": ("generate --task tse --source bad.yaml --prompt a.wav --out o.wav", "bad.yaml.*wav, flac"),
    "an ending": ("generate --task tse --source a.wav --prompt a.wav --out o.xyz", "o.xyz: end it with .wav or .flac"),
    "a column": ("generate --task tse --list jobs.csv --prompt a.wav --out made", "'sorce'.*did you mean 'source'"),
    "no bundle": (
        "generate --task tse --source a.wav --prompt a.wav --out o.wav --model nanno",
        "'nanno'.*did you mean 'nano'",
    ),
    "a corpus": ("evaluate --task tse --data librimx --root .", "librimx.*did you mean 'librimix'"),
    "a test set": ("evaluate --task tse --test-sets test-unsen", "'test-unsen'.*did you mean 'test-unseen'"),
    "a file for a folder": ("evaluate --task tse --system input --out a.wav", "a.wav.*(folder|file)"),
    "a number of steps": ("evaluate --task tse --num-steps 0", "--num-steps: must be at least 1"),
    "a baseline": ("tables --results results --benchmarks benchmarks --baseline inptu", "inptu.*did you mean 'input'"),
    "a system to compare": ("compare --task tse --results results --systems nanno", "nanno.*did you mean 'nano'"),
    "no results": ("compare --task tse --results nowhere", "nowhere.*evaluate"),
    "the wrong root": ("prepare librispeech --root results --out l.jsonl", "results: nothing to prepare; looked for"),
    "no root": ("prepare emilia --root nowhere --out e.jsonl", "nowhere: no such folder.*--root"),
    "nothing to import": ("import results --out bundle", "missing.*--file"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not the repository, with a sound, a list, results and two faulty configs."""
    folder = tmp_path_factory.mktemp("mistakes")
    soundfile.write(folder / "a.wav", voice(1.0), 24_000)
    (folder / "bad.yaml").write_text("data:\n  init_args: {batch_secnds: 3}\n")
    (folder / "root.yaml").write_text("trainr: {max_steps: 3}\n")
    (folder / "jobs.csv").write_text("id,sorce\none,a.wav\n")
    (folder / "benchmarks").symlink_to(REPOSITORY / "evaluation/benchmarks")
    write_run(folder / "results", "run", [*rows_of("input"), *rows_of("nano", 0.1)])
    return folder


def test_there_are_thirty() -> None:
    assert len(CONFIG_MISTAKES) + len(MISTAKES) >= 30


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_with_the_next_step(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, expected = MISTAKES[name]
    monkeypatch.chdir(folder)
    assert main(shlex.split(command)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(expected, said[-1]), said[-1]
    assert said[-1].startswith("metis-lightning: error: ") and len(said[-1]) < 400


@pytest.mark.parametrize("name", CONFIG_MISTAKES)
def test_a_mistake_in_a_config_is_told_within_three_seconds_of_cpu(name: str, folder: Path) -> None:
    command, expected = CONFIG_MISTAKES[name]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "metis_lightning", *shlex.split(command)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert len(lines := done.stderr.strip().splitlines()) == 1, done.stderr
    assert re.search(expected, lines[0]), lines[0]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0


@pytest.mark.parametrize("command", config_commands(), ids=lambda words: " ".join(words[1:])[:80])
def test_what_is_right_is_not_refused(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    try:
        check_config(command)
    except UserError as error:
        assert "no such manifest" in str(error)


def named_classes() -> set[str]:
    found = set()
    for path in sorted(REPOSITORY.glob("configs/**/*.yaml")):
        found |= set(re.findall(r"class_path: (metis_lightning[\w.]+)", path.read_text()))
    return found


@pytest.mark.parametrize("path", sorted(named_classes()))
def test_arguments_that_were_read_are_those_of_the_class(path: str) -> None:
    source = _source(path)
    assert source is not None
    read, cls = source.arguments(), find_class(path)
    assert read is not None
    for ancestor in cls.__mro__:
        parameters = inspect.signature(ancestor.__init__).parameters
        names = {p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        assert names <= set(read)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break


def test_a_class_that_another_config_names_may_take_the_key(tmp_path: Path) -> None:
    """What a later class takes of an earlier one's arguments is the merger's to say."""
    first = {"model": {"class_path": "metis_lightning.tasks.conditioned.TseModule", "init_args": {"lora_rank": 2}}}
    second = {"model": {"class_path": "metis_lightning.tasks.pretrain.PretrainModule", "init_args": {"stage1": None}}}
    for number, content in enumerate((first, second)):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(content))
    args = ["fit", "-c", str(tmp_path / "0.yaml"), "-c", str(tmp_path / "1.yaml")]
    check_config(args)
    with pytest.raises(
        UserError, match="unknown key 'lora_rnk' of .*TseModule, .*PretrainModule: did you mean 'lora_rank'"
    ):
        check_config([*args, "--model.init_args.lora_rnk", "3"])


@pytest.mark.parametrize(
    ("command", "function", "said"),
    [
        (["evaluate", "--task", "tse"], "metis_lightning.evaluate.run.main.run_evaluate", "the same command goes on"),
        (["tables"], "metis_lightning.evaluate.tables.main.run_tables", "stopped\n"),
    ],
)
def test_ctrl_c_says_what_is_kept(
    command: list[str], function: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(function, stopped)
    assert main(command) == 130
    assert said in capsys.readouterr().err


def test_the_progress_bar_counts_steps_of_the_run(tmp_path: Path, tiny_bundle: Path) -> None:
    run = Run(tmp_path / "run", tiny_bundle)
    assert run("--trainer.enable_progress_bar=true", "--trainer.max_steps=3") == 0
    assert "step=3/3" in run.said
    assert "/-2" not in run.said
