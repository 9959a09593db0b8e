"""Folders with sounds, a bundle of every task, and the command line as a function."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from every_task import Run, make_every_task_bundle, write_voice
from metis_lightning.cli import main as cli

FAST = ("--num-steps", "2", "--stage2-steps", "2", "1", "1")


@pytest.fixture(scope="session")
def every_task(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_every_task_bundle(tiny_bundle, tmp_path_factory.mktemp("every") / "bundle")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a mixture and a voice."""
    monkeypatch.setattr(sys, "argv", ["metis_lightning"])
    monkeypatch.chdir(tmp_path)
    write_voice(tmp_path / "mix.wav", 1.5)
    write_voice(tmp_path / "me.wav", 1.0, seed=1)
    return tmp_path


@pytest.fixture
def generate(folder: Path, every_task: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `generate` in few steps; return the status and what stands on standard error."""

    def call(*args: str, model: str | None = None) -> tuple[int, str]:
        status = cli.main(["generate", "--model", model or str(every_task), *FAST, *args])
        return status, capsys.readouterr().err

    return call
