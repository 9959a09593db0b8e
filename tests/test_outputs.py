"""An output that cannot be written ends every verb with one line, before the work; so does one that is in use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from documented import REPOSITORY
from metis_lightning.cli import main as cli
from metis_lightning.files import locked
from metis_lightning.weights import export

TINY = str(REPOSITORY / "configs/pretrain.yaml")

BELOW_A_FILE = {
    "evaluate": ("evaluate", "--task", "tse", "--system", "input", "--out", "taken/x"),
    "evaluate --export": ("evaluate", "--task", "tse", "--export", "taken/x"),
    "tables": ("tables", "--out", "taken/x"),
    "compare": ("compare", "--task", "tse", "--out", "taken/x"),
    "generate": ("generate", "--task", "se", "--source", "taken", "--out", "taken/x.wav"),
    "generate --play-list": ("generate", "--task", "se", "--source", "taken", "--out", "a.wav",
                             "--play-list", "taken/x.html"),
    "prepare": ("prepare", "librispeech", "--root", ".", "--out", "taken/x.jsonl"),
    "prepare --features": ("prepare", "lrs3", "--root", ".", "--out", "x.jsonl", "--features", "taken/x"),
    "prepare tokens": ("prepare", "tokens", "-c", TINY, "--out", "taken/x"),
    "import": ("import", "published", "--out", "taken/x"),
    "bench generate": ("bench", "generate", "--out", "taken/x.md"),
    "fit": ("fit", "-c", TINY, "--trainer.logger.init_args.save_dir", "taken/x"),
    "export": ("export",),
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file in the way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metis_lightning"])
    (tmp_path / "taken").touch()
    return tmp_path


def run(words: tuple[str, ...]) -> int:
    return export.main(["last.ckpt", "taken/x"]) if words == ("export",) else cli.main(words)


@pytest.mark.parametrize("verb", BELOW_A_FILE)
def test_an_output_below_a_file(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BELOW_A_FILE[verb]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("metis-lightning: error: ")
    assert "taken/x" in line and "cannot be written: " in line and "taken is a file; name another place" in line
    assert [path.name for path in Path.cwd().iterdir()] == ["taken"]


IN_USE = {
    "evaluate": (("evaluate", "--task", "tse", "--system", "input", "--out", "used"), "used"),
    "prepare tokens": (("prepare", "tokens", "-c", TINY, "--out", "used"), "used"),
}


@pytest.mark.parametrize("verb", IN_USE)
def test_a_folder_in_use(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, used = IN_USE[verb]
    with locked(Path(used)):
        assert cli.main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"metis-lightning: error: {used}: another command is writing here (pid {os.getpid()} on")


def test_a_manifest_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "1/2").mkdir(parents=True)
    chapter = folder / "LibriSpeech/dev/1/2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 A\n")
    words = ("prepare", "librispeech", "--root", "LibriSpeech", "--out", "m.jsonl")
    with locked(Path("m.parts")):
        (Path("m.parts") / ".of-another.x.jsonl").touch()
        assert cli.main(words) == 2
        assert cli.main((*words, "--shard", "0/2")) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [f"m.parts: another command is writing here (pid {os.getpid()} on" in line for line in errors] == [True] * 2
    # Nobody else's half-written pieces are removed.
    cli.main(words)
    assert (Path("m.parts") / ".of-another.x.jsonl").exists()


def test_a_run_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fit", "-c", TINY, "--trainer.max_steps", "1")
    with locked(Path("runs/pretrain")):
        assert cli.main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"runs/pretrain: another command is writing here (pid {os.getpid()} on" in line
