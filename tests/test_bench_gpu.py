"""`bench/gpu.sh` runs whole on a CPU with tiny sizes; what goes wrong in a section stops that section alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from documented import REPOSITORY

BENCH = REPOSITORY / "bench"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": ""}
    command = ["bash", str(BENCH / "gpu.sh"), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)


def cells(page: Path) -> list[list[str]]:
    """The rows of the table, without its head."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_every_section_runs_on_a_cpu(tmp_path: Path) -> None:
    done = run("--tiny", "--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = cells(tmp_path / "gpu.md")
    listed = [line.partition(":")[0] for line in run("--list").stdout.splitlines()]
    assert list(dict.fromkeys(row[0] for row in rows)) == listed
    assert {row[-1] for row in rows} == {"PASS", "SKIP", "figure"}
    values = {(row[0], row[1]): row[2] for row in rows}
    assert values["tokens and losses", "SSL tokens equal to the CPU's, float32"] == "1"
    assert float(values["tokens and losses", "relative difference of the losses"]) == 0
    assert "tokens/s" in values["training step", "eager step of 80 tokens"]
    assert "nonzero 1" in values["training step", "waits for the device"]
    assert "% of a step" in values["front end", "w2v-BERT on 2 s, highest"]
    assert [row for row in rows if row[-1] == "SKIP"] == [
        ["graphs", "graphs, their memory and speed", "no GPU", "", "SKIP"]
    ]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    return gpu


def raises(report: object) -> None:
    raise ValueError("of some kind")


def hangs(report: object) -> None:
    report.figure("before", "kept")
    while True:
        pass


def crashes(report: object) -> None:
    os.kill(os.getpid(), 9)


def works(report: object) -> None:
    report.least("a number", 2.0, 1.0)
    report.most("no number", float("nan"), 1.0)


def test_a_section_stops_itself_alone(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = ModuleType("sections_of_a_test")
    here.__dict__.update(raises=raises, hangs=hangs, crashes=crashes, works=works)
    monkeypatch.setitem(sys.modules, here.__name__, here)
    names = {"raises": 5.0, "hangs": 1.0, "crashes": 5.0, "works": 5.0}
    sections = [gpu.Section(name, f"{here.__name__}:{name}", budget) for name, budget in names.items()]
    sections.insert(0, gpu.Section("lacks", "no_such_package.part:name", 5.0))
    monkeypatch.setattr(gpu, "SECTIONS", tuple(sections))
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    rows = [row for row in cells(tmp_path / "gpu.md") if row[1] != "seconds"]
    assert rows == [
        [
            "lacks",
            "its imports",
            "ModuleNotFoundError: No module named 'no_such_package'; put its wheel into bench/wheels",
            "",
            "SKIP",
        ],
        ["raises", "what it raised", "ValueError: of some kind", "", "FAIL"],
        ["hangs", "before", "kept", "", "figure"],
        ["hangs", "all of it", "not done within 1 s", "", "FAIL"],
        ["crashes", "all of it", "ended by SIGKILL", "", "FAIL"],
        ["works", "a number", "2", "at least 1", "PASS"],
        ["works", "no number", "nan", "at most 1", "FAIL"],
    ]
    assert "ValueError: of some kind" in capfd.readouterr().err


def test_sections_for_which_no_time_is_left_say_so(gpu: ModuleType, tmp_path: Path) -> None:
    assert gpu.main(["--device", "cpu", "--seconds", "1", "--out", str(tmp_path)]) == 1
    assert {tuple(row[1:]) for row in cells(tmp_path / "gpu.md")} == {("all of it", "no time left of 1 s", "", "SKIP")}
