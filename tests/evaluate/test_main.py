"""`evaluate` end to end with quick metrics: every row once, resumable, refused under another protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from metis_lightning.data.manifest.test_sets import TestSets
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import ResultRow, RowKey, append_rows, read_rows
from metis_lightning.evaluate.results.runs import Protocol, RunFolder
from metis_lightning.evaluate.run import launch, systems
from metis_lightning.evaluate.run.launch import Launch
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.types import TestItem, Trial
from quick_pool import NO_ASR, Interrupted, QuickPool

MakeOptions = Callable[..., EvaluateOptions]

UNSEEN = ("--task", "tse", "--test-sets", "test-unseen", "--limit", "2")


def without_time(rows: list[ResultRow]) -> list[ResultRow]:
    return [replace(row, seconds=None) for row in rows]


def test_every_system_and_trial_has_one_row_and_one_wav(make_options: MakeOptions, every_task: Path) -> None:
    options = make_options(*UNSEEN, "--system", str(every_task))
    run_evaluate(options, QuickPool)
    rows = read_rows(options.out)
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys)) == 5 * 2
    assert {row.system for row in rows} == {"input", "target", "resynthesis", "oracle", "every"}
    by_system = {row.system: row for row in rows}
    assert by_system["target"].metrics["MSE"] == 0
    assert by_system["input"].metrics["MSE"] > 0
    assert by_system["target"].error == {"WER_none": NO_ASR}
    assert {row.system for row in rows if row.seed is None} == {"input", "target", "resynthesis"}
    assert (by_system["every"].seed, by_system["every"].steps, by_system["target"].steps) == (0, 58, None)
    for row in rows:
        info = soundfile.info(options.out / "wavs" / row.system / f"{row.id}.wav")
        assert (info.frames, info.samplerate) == (row.n_samples, 24_000)
        assert (row.sample_rate, row.channels, row.failed) == (24_000, 1, [])
    summary = json.loads((options.out / "summary.json").read_text())
    assert {(group["test_set"], group["system"]) for group in summary} == {key[:2] for key in keys}
    for group in summary:
        assert group["metrics"]["MSE"]["higher_is_better"] is False, "as the pool says, whatever the name"
        words = group["metrics"]["WER_none"]
        assert (words["n_failed"], words["n_not_applicable"], words["not_applicable"]) == (0, 2, {NO_ASR: 2})
        assert group["machine"] == {"device": "cpu", "threads": torch.get_num_threads(), "processes": 1}
    protocol = json.loads((options.out / "protocol.json").read_text())
    assert protocol["sizes"] == {"test-unseen": 60}


def test_seeds_are_rows_of_their_own_and_the_summary_has_their_spread(
    make_options: MakeOptions, every_task: Path
) -> None:
    options = make_options(*UNSEEN, "--system", "input", str(every_task), "--seeds", "3", "4", "5")
    run_evaluate(options, QuickPool)
    rows = read_rows(options.out)
    assert [(row.system, row.seed) for row in rows[::2]] == [("input", None)] + [("every", k) for k in (3, 4, 5)]
    summary = {group["system"]: group for group in json.loads((options.out / "summary.json").read_text())}
    level = summary["every"]["metrics"]["LEVEL"]
    means = torch.tensor([[r.metrics["LEVEL"] for r in rows if r.seed == k] for k in (3, 4, 5)]).mean(dim=1)
    assert (level["n"], level["n_seeds"], level["seed_sd"]) == (2, 3, pytest.approx(float(means.std()), rel=1e-5))
    assert level["seed_sd"] > 0
    assert "seed_sd" not in summary["input"]["metrics"]["LEVEL"]
    waves = [soundfile.read(path)[0] for path in sorted((options.out / "wavs" / "every").rglob("*_000.wav"))]
    assert len(waves) == 3
    assert not (waves[0] == waves[1]).all()


@pytest.mark.parametrize("kept", [0, 3, 5])
def test_a_run_that_was_killed_goes_on_and_gives_the_same_rows(
    kept: int, make_options: MakeOptions, every_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_options(*UNSEEN, "--system", "target", "input", str(every_task))
    run_evaluate(options, QuickPool)
    whole = read_rows(options.out)
    path = options.out / "utterances.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:kept]) + lines[kept][:40])
    scored: list[str] = []
    original = QuickPool.score
    monkeypatch.setattr(QuickPool, "score", lambda self, u: (scored.append(u.id), original(self, u))[1])
    run_evaluate(options, QuickPool)
    assert len(scored) == len(whole) - kept
    assert without_time(read_rows(options.out)) == without_time(whole)


def test_what_was_scored_before_ctrl_c_is_kept(make_options: MakeOptions) -> None:
    options = make_options(*UNSEEN, "--system", "target", "input")
    with pytest.raises(KeyboardInterrupt):
        run_evaluate(options, Interrupted)
    assert [row.system for row in read_rows(options.out)] == ["target", "target"]
    assert not (options.out / "summary.json").exists()
    run_evaluate(options, QuickPool)
    assert len(read_rows(options.out)) == 4


def test_models_live_one_at_a_time(
    make_options: MakeOptions, every_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    living: list[object] = []
    most: list[int] = []

    class Counted(systems.Metis):
        def __init__(self, *parts: Any, **options: Any) -> None:
            super().__init__(*parts, **options)
            living.append(None)
            most.append(len(living))

        def __del__(self) -> None:
            living.pop()

    monkeypatch.setattr(systems, "Metis", Counted)
    names = ["resynthesis", f"a={every_task}", f"b={every_task}"]
    run_evaluate(make_options(*UNSEEN, "--system", *names), QuickPool)
    assert most == [1, 1, 1]


def test_another_protocol_needs_another_folder(make_options: MakeOptions, every_task: Path) -> None:
    run_evaluate(make_options(*UNSEEN, "--system", "input", str(every_task)), QuickPool)
    with pytest.raises(UserError, match=r"another protocol .different: systems\.every\.seeds.0.: 0 -> 1\)"):
        run_evaluate(make_options(*UNSEEN, "--system", "input", str(every_task), "--seeds", "1"), QuickPool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "sing"), "--task sing: choose one of tts, vc, tse, se, l2s, omni"),
        (("--task", "tse", "--test-sets", "test-moon"), "no test set 'test-moon'"),
        (("--task", "tse", "--system", "nowhere.ckpt"), "no such checkpoint"),
        (("--task", "tse", "--system", "nowhere"), "no such folder"),
        (("--task", "tse", "--system", "wavs:nowhere"), "wavs:nowhere: no such folder"),
        (("--task", "l2s", "--system", "paper"), "no weights for the task 'l2s'"),
        (("--task", "tts", "--system", "input"), "the task tts has no such control"),
        (("--task", "tse", "--system", "input", "a=input", "a=target"), "would be called .*'a'"),
        (("--task", "tse", "--system", "..=input"), r"'\.\.' cannot name a folder"),
        (("--task", "tse", "--system", "a/b=wavs:x"), "--system a/b=wavs:x: 'a/b' cannot name a folder"),
        (("--task", "tse", "--system", "=wavs:x"), "--system =wavs:x: '' cannot name a folder"),
        (("--task", "se", "--text-guided"), "--text-guided: it is for the tasks tse and omni, not for se"),
        (("--task", "vc", "--tts-length", "reference"), "--tts-length reference: .* not for vc"),
        (("--task", "tse", "--data", "moon"), "--data moon: no corpus with test sets"),
        (("--task", "tse", "--seeds", "1", "1"), "--seeds: .1. twice"),
        (("--task", "l2s", "--no-controls"), "nano has no weights for the task 'l2s' on these items"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    arguments: tuple[str, ...], message: str, make_options: MakeOptions
) -> None:
    options = make_options(*arguments)
    with pytest.raises(UserError, match=message):
        run_evaluate(options, QuickPool)
    assert not options.out.exists()


def test_results_are_the_same_for_the_same_seed(make_options: MakeOptions, every_task: Path) -> None:
    first, second = (
        make_options(*UNSEEN, "--no-controls", "--system", str(every_task), "--out", f"results/{name}")
        for name in ("a", "b")
    )
    for options in (first, second):
        run_evaluate(options, QuickPool)
    assert without_time(read_rows(first.out)) == without_time(read_rows(second.out))


def test_a_bug_in_a_model_is_not_a_failed_row(
    make_options: MakeOptions, every_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(systems.Metis, "generate", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        run_evaluate(make_options(*UNSEEN, "--no-controls", "--system", str(every_task)), QuickPool)
    assert caught.value.__notes__ == ["while generating test-unseen_000"]


class OddTests(TestSets):
    """Two items of a corpus of one's own, for a task of one's own; the second is too short for any model."""

    def __init__(self, task: str = "unhum", names: tuple[str, ...] = ("odd_0", "odd_1")) -> None:
        super().__init__(Trial(name, "odd", task=task) for name in names)

    def load_item(self, trial: Trial) -> TestItem:
        samples = 500 if trial.id.endswith("1") else 12_000
        wave = torch.sin(torch.arange(samples) / 20)
        return TestItem(trial.id, "odd", "", None, "en", mixture=wave, target=wave, enrollment=torch.sin(wave))


def reader_of(*arguments: object) -> type[TestSets]:
    class Reader(OddTests):
        def __init__(self) -> None:
            super().__init__(*arguments)

    return Reader


def test_a_model_that_refuses_an_item_gives_a_failed_row(
    make_options: MakeOptions, every_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metis_lightning.evaluate.run import test_sets

    monkeypatch.setattr(test_sets, "_classes", lambda data: [reader_of("vc")])
    options = make_options("--task", "vc", "--no-controls", "--system", str(every_task))
    with pytest.raises(UserError, match="every on odd: 1 of 2 without LEVEL .*prompt lasts.*more than.* 0.1"):
        run_evaluate(options, QuickPool)
    good, bad = read_rows(options.out)
    assert good.failed == []
    assert bad.error["LEVEL"].startswith("not generated: the prompt lasts 0.02")
    assert set(bad.metrics.values()) == {None}
    assert bad.failed == ["LEVEL", "MSE"], "no words are asked for, so none were missed"
    assert (bad.n_samples, bad.hypothesis) == (0, None)
    summary = json.loads((options.out / "summary.json").read_text())
    assert summary[0]["metrics"]["LEVEL"]["n_failed"] == 1
    run_evaluate(
        make_options("--task", "vc", "--no-controls", "--system", str(every_task), "--max-failed-share", "0.5"),
        QuickPool,
    )


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/b", ".hidden", ""])
def test_ids_that_are_no_file_names_are_refused(
    name: str, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metis_lightning.evaluate.run import test_sets

    monkeypatch.setattr(test_sets, "_classes", lambda data: [reader_of("vc", ("fine", name))])
    options = make_options("--task", "vc", "--system", "input")
    with pytest.raises(UserError, match="may hold only"):
        run_evaluate(options, QuickPool)
    assert not options.out.exists()


@pytest.mark.parametrize("place", ["utterances.jsonl", "utterances.jsonl.1"])
def test_a_row_too_many_is_an_error(place: str, make_options: MakeOptions) -> None:
    options = make_options(*UNSEEN, "--system", "input")
    run_evaluate(options, QuickPool)
    row = read_rows(options.out)[0]
    with (options.out / place).open("a") as file:
        file.write(json.dumps({**row.to_json(), "n_samples": 7}) + "\n")
    with pytest.raises(UserError, match="two rows for test-unseen_000 of input on test-unseen"):
        run_evaluate(options, QuickPool)
    (options.out / place).write_text(json.dumps({**row.to_json(), "id": "test-unseen_059"}) + "\n")
    with pytest.raises(UserError, match="test-unseen_059 .*not of this run"):
        run_evaluate(options, QuickPool)


def test_a_missing_row_is_an_error(tmp_path: Path) -> None:
    results = RunFolder(tmp_path, Protocol({"task": "tse"}), [RowKey("test", "nano", 0, name) for name in ("a", "b")])
    append_rows(tmp_path / "utterances.jsonl.1", ResultRow("b", "tse", "test", "nano", seed=0))
    with pytest.raises(UserError, match="1 rows are missing, first a of nano on test, seed 0; run it again"):
        results.merge(is_whole=True)


@pytest.mark.timeout(300)
def test_one_two_and_three_processes_give_equal_rows(make_options: MakeOptions, every_task: Path) -> None:
    """Two items and two seeds, so the last round of three is not full; what a killed process left is taken over."""
    found = {}
    for count in (1, 2, 3):
        options = make_options(
            *UNSEEN, "--system", "input", str(every_task), "--seeds", "0", "1",
            "--devices", str(count), "--out", f"results/{count}",
        )  # fmt: skip
        run_evaluate(options, QuickPool)
        found[count] = without_time(read_rows(options.out))
        assert sorted(path.name for path in options.out.iterdir()) == [
            "protocol.json", "summary.json", "tables", "utterances.jsonl", "wavs",
        ]  # fmt: skip
    assert len(found[1]) == 3 * 2
    assert found[1] == found[2] == found[3]

    lines = (options.out / "utterances.jsonl").read_text().splitlines(keepends=True)
    (options.out / "utterances.jsonl").write_text("".join(lines[:2]))
    (options.out / "utterances.jsonl.2").write_text("".join(lines[1:4]) + lines[4][:30])
    run_evaluate(replace(options, devices=1), QuickPool)
    assert without_time(read_rows(options.out)) == found[1]

    launched = make_options(
        *UNSEEN, "--system", "input", str(every_task), "--seeds", "0", "1", "--out", "results/launched"
    )  # fmt: skip
    launch.run_in_processes(launched_rank, 2, launched)
    assert without_time(read_rows(launched.out)) == found[1]


def launched_rank(rank: int, options: EvaluateOptions) -> None:
    """Run as torchrun would: told by the environment which of two processes this is."""
    import os

    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29631", LOCAL_RANK=str(rank)
    )
    run_evaluate(options, QuickPool)


def test_a_launcher_is_heard() -> None:
    assert Launch.of(3, {}) == Launch(3)
    assert Launch.of(1, {"WORLD_SIZE": "1", "RANK": "0"}) == Launch(1)
    there = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert Launch.of(1, there) == Launch(4, 2, 0)
    with pytest.raises(UserError, match="leave --devices out"):
        Launch.of(2, there)
    with pytest.raises(UserError, match="MASTER_ADDR"):
        Launch.of(1, {"WORLD_SIZE": "4", "RANK": "2"})
