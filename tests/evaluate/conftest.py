"""Options of `evaluate` on tiny models, as the command line gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metis_lightning.cli.command import CommandParser
from metis_lightning.cli.main import COMMANDS
from metis_lightning.evaluate.options import EvaluateOptions
from tiny import make_bundle_of_every_task

MakeOptions = Callable[..., EvaluateOptions]


@pytest.fixture(scope="session")
def every_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle for every task; tests must not change it."""
    return make_bundle_of_every_task(tmp_path_factory.mktemp("bundles") / "every")


@pytest.fixture
def make_options(every_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeOptions:
    """Return the options of a command line; results go to `results/run` of an empty folder, where the test runs."""
    monkeypatch.chdir(tmp_path)

    def parse(*arguments: str) -> EvaluateOptions:
        fixed = ["--base", str(every_task), "--num-steps", "1", "--device", "cpu", "--out", "results/run"]
        return CommandParser("evaluate", COMMANDS["evaluate"]).options([*fixed, *arguments])

    return parse
