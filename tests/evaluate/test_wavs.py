"""Folders of audio that other tools made: matched by id, scored whatever their form, without any model of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from metis_lightning.data.corpora.starter_tests import StarterSeTests
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import read_rows
from metis_lightning.evaluate.run import systems
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.run.outputs import Items, WavFolder, read_output
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.metrics.suite import Suite, SuiteOptions
from odd_audio import apple_double, make_pipe, write
from quick_pool import NO_ASR, QuickPool

MakeOptions = Callable[..., EvaluateOptions]

IDS = [f"test-unseen-se_{number:03d}" for number in range(10)]
COMMAND = ("--task", "se", "--test-sets", "test-unseen-se")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """What a tool made of ten items, of which most went wrong in a way of their own."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    tests = StarterSeTests()
    trials = tests.load_trials("test-unseen-se")
    clean = [tests.load_item(trial).target.numpy() for trial in trials[: len(IDS)]]

    def put(number: int, wave: np.ndarray, rate: int = 24_000, suffix: str = ".wav", subtype: str = "FLOAT") -> None:
        soundfile.write(folder / f"{IDS[number]}{suffix}", wave, rate, subtype=None if suffix != ".wav" else subtype)

    put(0, clean[0])
    put(1, np.zeros_like(clean[1]))
    put(2, clean[2][:0])
    put(3, np.where(np.arange(len(clean[3])) == 100, np.nan, clean[3]).astype(np.float32))
    put(4, clean[4][:960])
    put(5, np.clip(30 * clean[5], -1, 1))
    put(6, clean[6][::3], 8_000)
    put(7, np.stack([clean[7], np.zeros_like(clean[7])], axis=1), suffix=".flac")
    (folder / f"{IDS[8]}.wav").write_bytes(b"no audio at all")
    # The tenth is missing, and an extra one is there. What --limit or --test-sets leave out is not extra.
    soundfile.write(folder / "of_something_else.wav", clean[0], 24_000)
    soundfile.write(folder / "test-unseen-se_059.wav", clean[0], 24_000)
    soundfile.write(folder / "test-human-se_000.wav", clean[0], 24_000)
    (folder / "notes.txt").write_text("no audio, and not looked at")
    return folder


def test_every_planted_failure_has_its_row(
    theirs: Path, make_options: MakeOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    options = make_options(*COMMAND, "--limit", "10", "--system", f"tool=wavs:{theirs}", "--no-controls")
    with pytest.raises(
        UserError,
        match="tool on test-unseen-se: 6 of 10 without LEVEL .1 × NaN or infinite samples, 1 × missing, 1 × no samples",
    ):
        run_evaluate(options, QuickPool)
    rows = {row.id: row for row in read_rows(options.out)}
    assert list(rows) == IDS
    reasons = {IDS.index(name): row.error.get("LEVEL") for name, row in rows.items()}
    assert reasons == {
        0: None,
        1: "the signal is silent",
        2: "no samples",
        3: "NaN or infinite samples",
        4: "the signal is shorter than 0.1 s",
        5: None,
        6: None,
        7: None,
        8: "not a readable audio file",
        9: "missing",
    }
    for number, reason in reasons.items():
        row = rows[IDS[number]]
        assert row.seed is None
        assert row.steps is None
        if reason is not None:
            assert set(row.metrics.values()) == {None}
            assert row.error == {"LEVEL": reason, "MSE": reason, "WER_none": NO_ASR}
            assert row.failed == ["LEVEL", "MSE"]
    forms = {number: (rows[IDS[number]].sample_rate, rows[IDS[number]].channels) for number in (0, 6, 7, 8, 9)}
    assert forms == {0: (24_000, 1), 6: (8_000, 1), 7: (24_000, 2), 8: (None, None), 9: (None, None)}
    assert rows[IDS[0]].metrics["MSE"] == 0
    narrow = rows[IDS[6]].metrics
    assert 0 < narrow["MSE"] < 0.3 * narrow["LEVEL"] ** 2
    stereo = rows[IDS[7]].metrics
    assert stereo["MSE"] == pytest.approx(stereo["LEVEL"] ** 2, rel=1e-2)
    assert rows[IDS[5]].metrics["LEVEL"] > 0.3

    (summary,) = json.loads((options.out / "summary.json").read_text())
    assert (summary["metrics"]["LEVEL"]["n"], summary["metrics"]["LEVEL"]["n_failed"]) == (4, 6)
    assert summary["metrics"]["LEVEL"]["errors"]["missing"] == 1
    assert json.loads((options.out / "extra_files.json").read_text()) == {"tool": ["of_something_else.wav"]}
    said = capsys.readouterr()
    assert (
        "tool: 1 files belong to no item of the test sets and are not scored, first of_something_else.wav" in said.err
    )
    assert "tool: its speed is not known" in said.out


def test_a_large_share_of_failures_may_be_allowed(theirs: Path, make_options: MakeOptions) -> None:
    options = make_options(*COMMAND, "--limit", "10", "--system", f"wavs:{theirs}", "--max-failed-share", "0.6")
    run_evaluate(options, QuickPool)
    assert {row.system for row in read_rows(options.out)} == {"input", "target", "resynthesis", "oracle", "theirs"}


def test_no_model_of_ours_is_loaded(theirs: Path, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr(systems.Metis, "from_pretrained", refuse)
    monkeypatch.setattr(systems.Metis, "codecs_only", refuse)
    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    options = make_options(*COMMAND, "--limit", "1", "--system", "input", f"wavs:{theirs}")
    run_evaluate(options, QuickPool)
    assert all(row.metrics["LEVEL"] > 0 for row in read_rows(options.out))
    with pytest.raises(AssertionError, match="a model was made"):
        run_evaluate(make_options(*COMMAND, "--limit", "1", "--system", "resynthesis", "--out", "others"), QuickPool)


def test_a_file_that_changed_is_another_run(theirs: Path, make_options: MakeOptions) -> None:
    options = make_options(*COMMAND, "--limit", "1", "--system", f"wavs:{theirs}", "--no-controls")
    run_evaluate(options, QuickPool)
    run_evaluate(options, QuickPool)
    soundfile.write(theirs / f"{IDS[0]}.wav", np.ones(24_000), 24_000)
    with pytest.raises(UserError, match=r"another protocol .different: systems\.theirs\.wavs: \w{12} -> \w{12}\)"):
        run_evaluate(options, QuickPool)


def test_two_files_of_one_id_are_refused(theirs: Path, make_options: MakeOptions) -> None:
    soundfile.write(theirs / f"{IDS[0]}.flac", np.ones(24_000), 24_000)
    with pytest.raises(UserError, match="are of one id; keep one"):
        run_evaluate(make_options(*COMMAND, "--system", f"wavs:{theirs}"), QuickPool)


def test_a_folder_without_audio_is_refused(tmp_path: Path, make_options: MakeOptions) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio in it .*files are named ID.wav"):
        run_evaluate(make_options(*COMMAND, "--system", f"wavs:{tmp_path / 'empty'}"), QuickPool)


def test_a_link_out_of_the_folder_is_not_a_file_of_it(theirs: Path, tmp_path: Path, make_options: MakeOptions) -> None:
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, np.ones(24_000), 24_000)
    (theirs / f"{IDS[9]}.wav").symlink_to(secret)
    options = make_options(*COMMAND, "--limit", "10", "--system", f"wavs:{theirs}", "--max-failed-share", "1")
    with pytest.raises(UserError, match="leads out of the folder"):
        run_evaluate(options, QuickPool)


def test_the_real_metrics_have_every_column_for_nothing_too() -> None:
    """So a row of nulls has the columns of the others."""
    suite = Suite(SuiteOptions(task="se", asr=(), speakers=()))
    heard = torch.sin(torch.arange(24_000) / 20)
    whole, nothing = (
        suite.score(ScoringItem("id", wave, 24_000, reference=heard)) for wave in (heard * 0.5 + 0.1, heard[:0])
    )
    assert list(whole) == list(nothing)
    assert {value.error for value in nothing.values()} == {"the signal is empty"}


def test_odd_files_of_a_folder_are_heard_whole_or_fail(tmp_path: Path) -> None:
    for name in ("flac_unknown", "flac_too_long", "opus_joined", "mp3_no_length_cover", "wav_streamed_0"):
        write(tmp_path, name)
    for name in ("kaldi_scale", "nan", "opposite", "m4a", "wav_too_short", "flac_cut"):
        write(tmp_path, name)
    (tmp_path / "._flac_unknown.wav").write_bytes(apple_double())
    make_pipe(tmp_path / "pipe.wav")
    folder = WavFolder.of(tmp_path, Items((), [path.stem for path in tmp_path.iterdir()]))
    outputs = {name: read_output(path) for name, path in folder.files.items()}
    seconds = {name: len(output.samples()) / output.rate for name, output in outputs.items() if not output.error}
    expected = {"flac_unknown": 3, "flac_too_long": 3, "opus_joined": 9, "mp3_no_length_cover": 3.03}
    assert seconds == pytest.approx(expected | {"wav_streamed_0": 3}, abs=0.05)
    assert {name: output.error for name, output in outputs.items() if name not in seconds} == {
        "kaldi_scale": "samples far beyond 1",
        "nan": "NaN or infinite samples",
        "opposite": "channels that cancel each other",
        "m4a": "not a readable audio file",
        "wav_too_short": "wrong length in the header",
        "flac_cut": "not a readable audio file",
    }
