"""Results folders and the paper's rows as Markdown."""

import json
from pathlib import Path
from typing import Any

import pytest

from metis_lightning.errors import UserError
from metis_lightning.evaluate.benchmarks import read_benchmarks
from metis_lightning.evaluate.markdown import estimate, grid
from metis_lightning.evaluate.tables import find_runs, write_tables

BENCHMARKS = Path(__file__).parents[2] / "evaluation/benchmarks"

SPEAKERS = ("anna", "ben", "carla")


def rows_of(system: str, offset: float = 0.0) -> list[dict[str, Any]]:
    """Rows of one system: three speakers with SIM 0.25, 0.5, 0.75 (+ offset); the last one has no transcript."""
    return [
        {
            "id": f"{speaker}-1",
            "task": "tse",
            "test_set": "test-human",
            "system": system,
            "speaker": speaker,
            "metrics": {
                "DNSMOS_SIG": 3.0 + offset,
                "SIM_target_ge2e": 0.25 * (index + 1) + offset,
                "WER_tiny.en": None if index == 2 else 0.1,
            },
            "error": {"WER_tiny.en": "the text is fr"} if index == 2 else {},
            "wer": None if index == 2 else {"edits": 1, "words": 10},
        }
        for index, speaker in enumerate(SPEAKERS)
    ]


def write_run(results: Path, name: str, rows: list[dict[str, Any]], seed: int = 0) -> None:
    folder = results / name
    folder.mkdir(parents=True)
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text("[]\n")
    systems = sorted({row["system"] for row in rows})
    protocol = {"task": "tse", "seed": seed, "ids": {"test-human": ["a"]}, "systems": systems, "fingerprint": name}
    (folder / "protocol.json").write_text(json.dumps(protocol))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    write_run(path, "demo", rows_of("demo", 0.1) + rows_of("target") + rows_of("input"))
    return path


def table(results: Path, out: Path) -> str:
    [path] = write_tables(results, out, BENCHMARKS)
    assert path == out / "table_03.md"
    return path.read_text()


def cells(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without their rules."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| :")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_our_rows_stand_above_the_papers(results: Path, tmp_path: Path) -> None:
    header, *rows = cells(table(results, tmp_path / "out"))
    assert header == [
        "test set", "system", "run", "n", "DNSMOS SIG ↑", "SIM target (ge2e) ↑", "WER % (tiny.en) ↓"
    ]  # fmt: skip
    start = ["test-human", "input", "demo", "3", "3.00 ± 0.00", "0.500 ± 0.250", "10.0 ± 0.0 (1 failed)"]
    assert rows[0] == start
    assert [row[1] for row in rows[:3]] == ["input", "target", "demo"]
    assert rows[3] == ["test set", "system", "WER % ↓", "SIG ↑", "BAK ↑", "OVRL ↑", "NISQA ↑", "SIM ↑"]
    assert rows[4] == ["LibriMix test", "Ground Truth", "4.27", "3.62", "4.03", "3.32", "4.11", "0.76"]
    assert len(rows) == 3 + 1 + 18


def test_reasons_of_failures_are_listed(results: Path, tmp_path: Path) -> None:
    assert "- WER (tiny.en), test-human: 1 × the text is fr (input, target, demo)" in table(results, tmp_path)


def test_another_protocol_is_another_table(results: Path, tmp_path: Path) -> None:
    write_run(results, "other-seed", rows_of("demo"), seed=1)
    text = table(results, tmp_path)
    assert text.count("## Ours, protocol ") == 2
    assert "Of `other-seed`; task tse, seed 1" in text


def test_runs_of_one_protocol_share_a_table_and_their_controls(results: Path, tmp_path: Path) -> None:
    write_run(results, "nano", rows_of("nano") + rows_of("target") + rows_of("input", 0.01))
    text = table(results, tmp_path)
    assert text.count("## Ours, protocol ") == 1
    ours = [(row[1], row[2]) for row in cells(text) if row[0] == "test-human"]
    # The same target row stands once; an input row that differs stands twice, with its run.
    assert ours == [("input", "demo"), ("input", "nano"), ("target", "demo"), ("demo", "demo"), ("nano", "nano")]


def test_a_metric_that_some_systems_lack_is_a_dash(results: Path, tmp_path: Path) -> None:
    rows = rows_of("nano")
    for row in rows:
        del row["metrics"]["DNSMOS_SIG"]
    write_run(results, "nano", rows)
    [row] = [row for row in cells(table(results, tmp_path)) if row[1] == "nano"]
    assert row[4] == "–"


def test_the_same_results_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    assert table(results, tmp_path / "a") == table(results, tmp_path / "b")


def test_an_unfinished_run_is_left_out_and_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(results, "half", rows_of("nano"))
    (results / "half/summary.json").unlink()
    assert [run.name for run in find_runs(results)] == ["demo"]
    assert "half is left out: the run is not finished" in capsys.readouterr().err


def test_no_results_are_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results in .*evaluate --task tse"):
        write_tables(tmp_path / "none", tmp_path, BENCHMARKS)


def test_no_benchmarks_are_a_users_mistake(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--benchmarks"):
        write_tables(results, tmp_path, tmp_path / "none")


def test_a_malformed_benchmark_is_named(results: Path, tmp_path: Path) -> None:
    (tmp_path / "table_99.yaml").write_text("table: 99\nrows: []\n")
    with pytest.raises(UserError, match=r"table_99\.yaml is not a table of the paper"):
        write_tables(results, tmp_path, tmp_path)


def test_every_table_of_the_paper_is_there() -> None:
    benchmarks = read_benchmarks(BENCHMARKS)
    counts = {benchmark.table: len(benchmark.rows) for benchmark in benchmarks}
    assert counts == {1: 22, 2: 7, 3: 18, 4: 23, 5: 4, 6: 6, 7: 5, 8: 4, 9: 5, 10: 4, 11: 24}
    assert all(benchmark.name == f"table_{benchmark.table:02d}" for benchmark in benchmarks)
    [tse] = [benchmark for benchmark in benchmarks if benchmark.ours]
    assert (tse.table, tse.ours.task, tse.ours.first) == (3, "tse", ("input", "target", "resynthesis"))


def test_benchmark_values_are_the_printed_ones() -> None:
    rows = {benchmark.table: benchmark.rows for benchmark in read_benchmarks(BENCHMARKS)}
    assert rows[3][7]["system"] == "Metis-TSE LoRA 32"
    assert rows[3][7]["metrics"] == {"WER": 9.65, "SIG": 3.66, "BAK": 4.02, "OVRL": 3.35, "NISQA": 4.38, "SIM": 0.75}
    assert rows[4][2]["metrics"]["NISQA"] is None
    assert rows[9][0]["metrics"]["QMOS"] == {"mean": 4.32, "ci95": 0.28}
    assert all(
        set(row) <= {"task", "test_set", "system", "train_data", "metrics"} for part in rows.values() for row in part
    )


def test_grid_escapes_and_pads() -> None:
    assert grid(["a"], [["x|y"]]).splitlines() == ["| a    |", "| :--- |", "| x\\|y |"]


@pytest.mark.parametrize(
    ("mean", "half", "text"), [(None, None, "–"), (-0.001, None, "0.00"), (1.005, 0.1, "1.00 ± 0.10")]
)
def test_estimate(mean: float | None, half: float | None, text: str) -> None:
    assert estimate(mean, half, 2) == text
