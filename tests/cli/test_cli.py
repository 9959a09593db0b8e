"""The command line: what it lists, what it passes on, and one line for each mistake of the user's."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from metis_lightning.cli import main as cli
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions


class TinyModule(BoringModel):
    """A model whose shape is a key of the config."""

    def __init__(self, width: int = 4, height: int = 2, fail: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        if fail:
            raise UserError("there is no bundle here")
        self.extra = torch.nn.Linear(width, height)


class TinyDataModule(BoringDataModule):
    """Random vectors."""


HERE = f"{Path(__file__).stem}"

CONFIG = {
    "model": {"class_path": f"{HERE}.TinyModule", "init_args": {"width": 8, "height": "${model.init_args.width}"}},
    "data": {"class_path": f"{HERE}.TinyDataModule"},
    "trainer": {
        "max_steps": 1,
        "limit_val_batches": 0,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the classes of this file can be named in configs."""
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    monkeypatch.setattr(sys, "argv", ["metis_lightning"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; return the status and the last line of stderr."""

    def call(*args: str) -> tuple[int, str]:
        status = cli.main(args)
        lines = capsys.readouterr().err.splitlines()
        return status, lines[-1] if lines else ""

    return call


def write(path: Path, config: dict) -> str:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path.name


@pytest.fixture
def config(folder: Path) -> str:
    return write(folder / "tiny.yaml", CONFIG)


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_the_bare_command_lists_every_verb_with_an_example(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    verbs = [*cli.TRAINER_COMMANDS, *cli.COMMANDS]
    assert len(verbs) > 10
    for verb in verbs:
        assert f"python -m metis_lightning {verb} " in out


def test_help_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys; from metis_lightning.cli.main import main; main([])\n"
        "try: main(['evaluate', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(len({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--test-sets" in done.stdout


def test_the_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "metis_lightning", "ft"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "metis-lightning: error: unknown command 'ft': did you mean 'fit'?\n"


@pytest.mark.parametrize("verb", ["fit", *cli.COMMANDS])
def test_a_verbs_help_has_an_example(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*verb.split(), "--help"])
    assert stop.value.code == 0
    assert f"python -m metis_lightning {verb} " in capsys.readouterr().out


# --- verbs ----------------------------------------------------------------------------------------------------------


def test_evaluate_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("metis_lightning.evaluate.run.main.run_evaluate", seen.append)
    assert cli.main(["evaluate", "--task", "tse", "--system", "nano", "a.ckpt", "--limit", "3", "--no-controls"]) == 0
    assert cli.main(["evaluate", "--task", "tse"]) == 0
    first, default = seen
    assert (first.task, first.system, first.limit, first.no_controls) == ("tse", ("nano", "a.ckpt"), 3, True)
    assert (default.system, default.limit, default.no_controls, default.test_sets) == ((), None, False, None)
    assert (default.seeds, default.num_steps, default.out, default.device) == ((0,), None, None, None)
    assert default.protocol == "offline"


def test_tables_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("metis_lightning.evaluate.tables.main.run_tables", seen.append)
    assert cli.main(["tables", "--out", "elsewhere"]) == 0
    assert (seen[0].results, seen[0].out, seen[0].baseline) == (None, Path("elsewhere"), None)
    assert seen[0].benchmarks == Path("evaluation/benchmarks")


def test_compare_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("metis_lightning.evaluate.compare.main.run_compare", seen.append)
    assert cli.main(["compare", "--task", "tse", "--systems", "a", "b", "--limit", "3"]) == 0
    assert (seen[0].task, seen[0].systems, seen[0].limit) == ("tse", ("a", "b"), 3)
    assert (seen[0].results, seen[0].out, seen[0].sort) == (Path("evaluation/results"), None, None)


def test_options_may_stand_in_a_file(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("metis_lightning.evaluate.run.main.run_evaluate", seen.append)
    write(folder / "run.yaml", {"task": "tse", "seeds": [1, 2], "no_controls": True, "out": "somewhere"})
    assert run("evaluate", "--config", "run.yaml", "--limit", "3")[0] == 0
    options = EvaluateOptions(task="tse", seeds=(1, 2), no_controls=True, out=Path("somewhere"), limit=3)
    assert seen == [options]
    write(folder / "bad.yaml", {"task": "tse", "limti": 3})
    status, line = run("evaluate", "--config", "bad.yaml")
    assert (status, "--limti; did you mean --limit?" in line) == (2, True)
    with pytest.raises(UserError, match="--limit: must be at least 1, not 0"):
        replace(options, limit=0)


def test_an_option_may_be_repeated_beside_a_word_without_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("metis_lightning.weights.published.convert.run_import", seen.append)
    assert run("import", "--file", "a=b", "--file", "c=d", "hub", "--out", "x")[0] == 0
    assert run("import", "--out", "x")[0] == 0
    assert [(each.source, each.file, each.out) for each in seen] == [
        ("hub", ("a=b", "c=d"), Path("x")),
        (None, (), Path("x")),
    ]


def test_fit_trains_and_resumes_with_weights_only(
    run: Run, config: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fit", "-c", config)[0] == 0
    checkpoint = folder / "runs/default/version_0/checkpoints/epoch=0-step=1.ckpt"
    assert (checkpoint.parents[1] / "config.yaml").is_file()
    assert torch.load(checkpoint, weights_only=True)["state_dict"]["extra.weight"].shape == (8, 8)

    loads: list[bool | None] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **kw: (loads.append(kw.get("weights_only")), load(*a, **kw))[1])
    assert run("fit", "-c", config, "--trainer.max_steps", "2", "--ckpt_path", str(checkpoint))[0] == 0
    assert loads and all(loads)

    # The config says what is built: the checkpoint's own sizes do not override it.
    status, line = run("fit", "-c", config, "--model.init_args.width", "16", "--ckpt_path", str(checkpoint))
    assert status == 2
    assert "another shape: extra.weight is [8, 8] there and [16, 16] in the model" in line


def test_overlays_and_options_change_what_references_refer_to(
    config: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = write(folder / "overlay.yaml", {"trainer": {"max_steps": 7}, "model": {"init_args": {"width": 3}}})

    def printed(*args: str) -> dict:
        with pytest.raises(SystemExit) as stop:
            cli.main(["fit", "-c", config, *args, "--print_config"])
        assert stop.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    laid = printed("-c", overlay)
    assert laid["model"]["init_args"] == {"width": 3, "height": 3, "fail": False}
    assert laid["trainer"]["max_steps"] == 7
    assert laid["trainer"]["logger"]["init_args"]["save_dir"] == "runs"
    assert laid["seed_everything"] == 0
    assert printed("-c", overlay, "--model.init_args.width", "5")["model"]["init_args"]["height"] == 5


def test_print_config_needs_no_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"] is None


# --- mistakes -------------------------------------------------------------------------------------------------------

MISSPELT = [
    (("trainer", "max_stps"), 3, "unknown key 'trainer.max_stps' (bad.yaml:14): did you mean 'trainer.max_steps'?"),
    (("modl", "class_path"), "x", "unknown key 'modl' (bad.yaml:14): did you mean 'model'?"),
    (
        ("model", "init_args", "wdth"),
        3,
        "unknown key 'wdth' of test_cli.TinyModule (bad.yaml:8): did you mean 'width'?",
    ),
    (("model", "class_path"), "test_cli.Nope", "model: Problem with given class_path 'test_cli.Nope': module "),
    (("model", "init_args", "height"), "wide", "model.height: Expected a <class 'int'>. Got value: wide"),
    (("model", "init_args", "height"), "${model.init_args.wdth}", "(resolved to 'fit.model.init_args.wdth')"),
    (("model", "init_args", "fail"), True, "there is no bundle here"),
]


@pytest.mark.parametrize(("keys", "value", "message"), MISSPELT, ids=[".".join(keys) for keys, _, _ in MISSPELT])
def test_a_wrong_config_ends_with_one_line(
    run: Run, folder: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    bad = yaml.safe_load(yaml.safe_dump(CONFIG))
    place = bad
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    status, line = run("fit", "-c", write(folder / "bad.yaml", bad))
    assert status == 2
    assert line.startswith("metis-lightning: error: ")
    assert message in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fit", "-c", "no-such.yaml"), "no-such.yaml: no such file"),
        (("fit",), "required: fit.data, fit.model (a config gives them, e.g. -c configs/tse_lora.yaml)"),
        (("fit", "-c", "tiny.yaml", "--trainer.max_stps", "3"), "unknown key 'trainer.max_stps'"),
        (("fit", "-c", "tiny.yaml", "--ckpt_path", "no-such.ckpt"), "checkpoint no-such.ckpt does not exist"),
        (("fit", "-c", "tiny.yaml", "--weights_only", "false"), "unknown key 'weights_only'"),
        (("fitt",), "unknown command 'fitt': did you mean 'fit'?"),
        (("xyz",), "the commands are fit, validate, test, predict, evaluate, tables"),
        (("evaluate",), "required: --task"),
        (("evaluate", "--task", "tse", "--limit", "0"), "must be at least 1, not 0"),
        (("evaluate", "--task", "tse", "--limti", "1"), "unrecognized arguments: --limti 1; did you mean --limit?"),
    ],
)
def test_a_wrong_option_ends_with_one_line(run: Run, config: str, args: tuple[str, ...], message: str) -> None:
    status, line = run(*args)
    assert status == 2
    assert message in line


def test_a_broken_yaml_is_named(run: Run, folder: Path) -> None:
    (folder / "broken.yaml").write_text("model: [unclosed\n")
    status, line = run("fit", "-c", "broken.yaml")
    assert status == 2
    assert line.startswith("metis-lightning: error: broken.yaml: ")


class Attack:
    """What a stranger's checkpoint may hold: loading it with pickle runs a command."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("attacked",)


def test_a_checkpoint_that_runs_code_is_refused(run: Run, config: str, folder: Path) -> None:
    torch.save({"state_dict": {}, "extra": Attack()}, folder / "attack.ckpt")
    status, line = run("fit", "-c", config, "--ckpt_path", "attack.ckpt")
    assert (status, (folder / "attacked").exists()) == (2, False)
    assert line.endswith("checkpoint attack.ckpt is refused: it holds more than tensors and plain values")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_named(run: Run, config: str, folder: Path, content: bytes) -> None:
    (folder / "damaged.ckpt").write_bytes(content)
    status, line = run("fit", "-c", config, "--ckpt_path", "damaged.ckpt")
    assert (status, line) == (2, "metis-lightning: error: checkpoint damaged.ckpt is damaged or not a checkpoint")


def test_other_exceptions_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("metis_lightning.evaluate.tables.main.run_tables", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["tables"])
