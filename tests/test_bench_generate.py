"""`bench generate`: its requests, its table, and what it counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metis_lightning.bench.generate import bench_requests, matmul_gigaflops
from metis_lightning.cli.main import main
from metis_lightning.types import WAVE_RATE


def test_the_table_counts_passes_and_compares_tokens(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.md"
    options = ["--system", str(tiny_bundle), "--seconds", "1", "--batch-sizes", "1", "2", "--num-steps", "3"]
    assert main(["bench", "generate", *options, "--released", "--device", "cpu", "--out", str(out)]) == 0
    lines = [line for line in out.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in cells[2:]] == [["released way", "1"], ["float32", "1"], ["float32", "2"]]
    passes = {(row[0], row[1]): row[cells[0].index("passes 1, 2")] for row in cells[2:]}
    # Two requests. Stage 2: 40 steps unguided, then 16 + 1, of which the released way makes two passes each.
    assert passes["released way", "1"] == f"{2 * 3}, {2 * (40 + 2 * 17)}"
    assert passes["float32", "1"] == f"{2 * 3}, {2 * (40 + 17)}"
    assert passes["float32", "2"] == f"{3}, {40 + 17}"
    assert all(row[-1] == "0.0%, 0.0%" for row in cells[3:])
    assert all(float(row[cells[0].index("RTF")]) > 0 for row in cells[2:])
    assert f"torch {torch.__version__}" in out.read_text()
    assert capsys.readouterr().out.count("batch") >= 3


def test_presets_are_rows_and_their_words_are_counted(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--system", str(tiny_bundle), "--seconds", "1", "--batch-sizes", "1", "--presets", "released", "fast"]
    assert main(["bench", "generate", *options, "--num-steps", "3", "--words", "--device", "cpu"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells[2:]] == ["float32", "float32, fast"]
    assert (
        cells[0][-1] == "words changed"
        and cells[2][-1] == ""
        and cells[3][-1] in ("–", *map("{:.1%}".format, range(2)))
    )
    # A quarter of three steps is one; layers in 5, 2 and 1.
    assert cells[3][cells[0].index("passes 1, 2")] == f"{1}, {5 + 2 + 1}"


def test_what_the_processor_lacks_is_left_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    options = ["--system", str(tiny_bundle), "--seconds", "1", "--batch-sizes", "1", "--precision", "int8", "float32"]
    assert main(["bench", "generate", *options, "--num-steps", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "int8: int8 is slower than float32 on this processor" in out
    assert "| float32 | 1 |" in out and "| int8" not in out


def test_requests_are_of_different_lengths_and_the_asked_one_alone() -> None:
    assert [len(request.source) for request in bench_requests("se", 3, 1, mixed=False)] == [3 * WAVE_RATE]
    many = bench_requests("tse", 2, 8, mixed=True)
    assert len({len(request.source) for request in many}) > 4
    assert sum(len(request.source) for request in many) == 8 * 2 * WAVE_RATE
    assert all(request.source.abs().max() > 0.01 and len(request.prompt) == 2 * WAVE_RATE for request in many)


def test_a_machine_does_more_than_nothing() -> None:
    assert matmul_gigaflops(torch.device("cpu"), 128) > 0.01


def test_an_unknown_option_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "generate", "--scale", "huge"]) == 2
    assert "--scale: must be one of nano, paper, not huge" in capsys.readouterr().err
    assert main(["bench", "genrate"]) == 2
