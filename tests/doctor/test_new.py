"""`new` makes a manifest and a config that run of a folder of recordings."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import soundfile

from fake_corpora import voice
from metis_lightning.cli.main import main
from metis_lightning.data.corpora.folder import FolderScan
from metis_lightning.doctor import new
from metis_lightning.trainer.config_keys import check_config


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my recordings"
    for number in range(12):
        path = folder / f"speaker {number // 3}" / f"take {number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(1.0 + 0.1 * number, number, 22_050), 22_050)
        path.with_suffix(".txt").write_text(f"words of {number}\n")
    monkeypatch.chdir(tmp_path)
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_is_listed_with_speakers_and_texts(recordings: Path, tmp_path: Path) -> None:
    assert main(["prepare", "folder", "--root", str(recordings), "--out", "m.jsonl", "--language", "de"]) == 0
    first = rows(tmp_path / "m.jsonl")[0]
    assert (first["id"], first["speaker"], first["text"]) == ("speaker_0_take_0", "speaker_0", "words of 0")
    assert (first["language"], first["sample_rate"], first["split"]) == ("de", 22_050, "train")


def test_speakers_and_texts_of_a_flat_folder(tmp_path: Path) -> None:
    for name in ("ann-1", "ann-2", "bob_1"):
        soundfile.write(tmp_path / f"{name}.wav", voice(1.0, 1, 16_000), 16_000)
    (tmp_path / "metadata.csv").write_text("ann-1|One, 1.|one, one\nbob_1|Two.\n")
    for rule, expected in (("name", ["ann", "ann", "bob"]), ("folder", ["one"] * 3), ("one", ["one"] * 3)):
        scan = FolderScan(str(tmp_path), rule)
        found = [row for shard in scan.shards() for row in scan.scan(shard)]
        assert [row["speaker"] for row in found] == expected
        assert [row["text"] for row in found] == ["one, one", "", "Two."]


@pytest.mark.timeout(600)
def test_the_config_runs_and_the_next_commands_are_sound(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "--task", "tse", "--speech", "my recordings"]) == 0
    said = capsys.readouterr().out
    assert "12 recordings" in said and "4 speakers" in said
    commands = re.findall(r"^  python -m metis_lightning (.*)$", said, re.MULTILINE)
    assert [shlex.split(command)[0] for command in commands] == ["doctor", "fit", "generate"]
    check_config(shlex.split(commands[1]))
    words = shlex.split(commands[2])
    assert Path(words[words.index("--source") + 1]).is_file() and Path(words[words.index("--prompt") + 1]).is_file()
    assert (tmp_path / "my_tse/config.yaml").read_text().startswith("# Your own recordings.")


def test_mistakes_of_a_folder(recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["new", "--task", "se", "--speech", "empty"]) == 2
    assert "empty: nothing to prepare; looked for sound files (.wav, .flac" in capsys.readouterr().err
    assert main(["new", "--speech", "my recordings"]) == 2
    assert "required: --task" in capsys.readouterr().err
    assert main(["new", "--task", "vc", "--speech", "my recordings", "--noise", "empty"]) == 2
    assert "--noise is for --task se" in capsys.readouterr().err


def test_the_wizard_asks_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["se", "clean", "noises"])
    asked = []
    monkeypatch.setattr(new.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or next(answers))
    options = new._asked(new.NewOptions())
    assert (options.task, options.speech, options.noise) == ("se", Path("clean"), Path("noises"))
    assert options.out == Path("my_se")
    assert len(asked) == 3
