"""`bench start`, by what commands import before their first work: seconds differ from machine to machine."""

from __future__ import annotations

import pytest

from metis_lightning.bench.start import start_of
from metis_lightning.cli.main import main


def test_commands_import_what_their_first_work_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "start", "--runs", "1"]) == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    # Not even torch is needed to find that a config is not there.
    assert {name: modules for name, _, _, modules in rows} == {
        "fit, a config that is not there": "",
        "generate": "torch",
        "evaluate": "torch",
    }
    assert all(float(seconds) > 0 for _, seconds, _, _ in rows)


def test_a_heavy_import_is_seen() -> None:
    assert "scipy.stats" in start_of("scipy.stats:t", ["--help"]).heavy
