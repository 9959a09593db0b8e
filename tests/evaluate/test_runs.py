"""The folder of a run: one command at a time, doubled rows, tables of its own, and outputs that cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from documented import REPOSITORY
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import ResultRow, append_rows, read_rows
from metis_lightning.evaluate.results.runs import find_results
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.run.plan import make_plan
from metis_lightning.files import locked
from quick_pool import QuickPool

MakeOptions = Callable[..., EvaluateOptions]

INPUT = ("--task", "tse", "--test-sets", "test-unseen", "--limit", "2", "--system", "input")


class NoPool(QuickPool):
    """Nothing may be loaded."""

    def __enter__(self) -> QuickPool:
        raise AssertionError("the work has begun")


def append(path: Path, *rows: ResultRow) -> None:
    for row in rows:
        append_rows(path, row)


def test_a_second_run_into_a_folder_is_refused_before_anything_is_loaded(
    make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_options(*INPUT)
    monkeypatch.setattr("metis_lightning.evaluate.run.main.make_plan", lambda *_: pytest.fail("planned"))
    with locked(options.out), pytest.raises(UserError, match=f"another command is writing here .pid {os.getpid()} on"):
        run_evaluate(options, NoPool)
    monkeypatch.setattr("metis_lightning.evaluate.run.main.make_plan", make_plan)
    run_evaluate(options, QuickPool)
    assert len(read_rows(options.out)) == 2
    assert not (options.out / ".lock").exists()


@pytest.mark.parametrize("place", ["utterances.jsonl", "utterances.jsonl.0"])
def test_rows_that_only_a_clock_tells_apart_are_one(place: str, make_options: MakeOptions) -> None:
    """As two runs at once left them: the folder goes on, and counts each once."""
    options = make_options(*INPUT)
    run_evaluate(options, QuickPool)
    rows = read_rows(options.out)
    append(options.out / place, *(replace(row, seconds=(row.seconds or 0) + 1.5) for row in rows))
    if place == "utterances.jsonl":
        assert [len(result.rows) for result in find_results(options.out)] == [2]
    run_evaluate(options, QuickPool)
    assert read_rows(options.out) == rows
    assert not (options.out / "utterances.jsonl.0").exists()


def test_rows_that_differ_are_named_with_their_files(make_options: MakeOptions) -> None:
    options = make_options(*INPUT)
    run_evaluate(options, QuickPool)
    row = read_rows(options.out)[1]
    other = options.out / "utterances.jsonl.0"
    append(other, replace(row, seconds=9.0, n_samples=7))
    with pytest.raises(UserError) as refused:
        run_evaluate(options, QuickPool)
    message = str(refused.value)
    assert message.startswith(f"two rows for {row.id} of input on test-unseen, in {options.out}/utterances.jsonl and ")
    assert f" and {other}, differ in n_samples; remove the line that is wrong" in message
    other.unlink()
    run_evaluate(options, QuickPool)


@pytest.fixture
def project(make_options: MakeOptions) -> Path:
    """The folder of a project, with results and the paper's rows."""
    Path("evaluation").mkdir()
    Path("evaluation/benchmarks").symlink_to(REPOSITORY / "evaluation/benchmarks")
    run_evaluate(make_options(*INPUT, "--out", "evaluation/results/ours"), QuickPool)
    return Path("evaluation/tables")


def test_a_run_elsewhere_leaves_the_project_s_tables_alone(project: Path, make_options: MakeOptions) -> None:
    before = {path: path.read_bytes() for path in project.iterdir()}
    assert "LEVEL" in (project / "table_03.csv").read_text()
    run_evaluate(make_options(*INPUT, "--out", "trial/beside", "--limit", "1"), QuickPool)
    run_evaluate(make_options(*INPUT, "--out", "trial/run", "--system", "target"), QuickPool)
    assert {path: path.read_bytes() for path in project.iterdir()} == before
    own = Path("trial/run/tables/table_03.csv").read_text()
    assert ",target," in own and ",input," not in own
    run_evaluate(make_options(*INPUT, "--out", "evaluation/results/more", "--system", "target"), QuickPool)
    assert ",target," in (project / "table_03.csv").read_text() and ",input," in (project / "table_03.csv").read_text()


@pytest.mark.parametrize(
    ("in_the_way", "message"),
    [
        ("taken", "--out taken cannot be written: taken is a file"),
        ("taken/sub", "--out taken/sub cannot be written: taken is a file"),
        ("fresh/wavs", "--out fresh/wavs cannot be written: fresh/wavs is a file"),
        ("fresh/protocol.json/", "--out fresh/protocol.json cannot be written: it is a folder"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    in_the_way: str, message: str, make_options: MakeOptions
) -> None:
    out = in_the_way.split("/")[0] if in_the_way.startswith("fresh") else in_the_way
    if in_the_way.endswith("/"):
        Path(in_the_way).mkdir(parents=True)
    else:
        blocked = Path(in_the_way if in_the_way.startswith("fresh") else "taken")
        blocked.parent.mkdir(exist_ok=True)
        blocked.touch()
    with pytest.raises(UserError) as refused:
        run_evaluate(make_options(*INPUT, "--out", out), NoPool)
    assert str(refused.value).startswith(message)
