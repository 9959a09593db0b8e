"""Bundles, checkpoints and configs of an earlier release do what they did then."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from command import run_command
from metis_lightning.data.batches.resume import DataPosition
from metis_lightning.pipeline import Metis
from metis_lightning.renamed_classes import RENAMED, current_class_path, with_current_class_paths
from metis_lightning.sampling.request import Request

BEFORE = Path(__file__).with_name("before_rooms")
EXPECTED: dict[str, Any] = json.loads((BEFORE / "expected.json").read_text())


def request_of(task: str) -> Request:
    """A request of tones, of prompts and lips as `expected.json` was made with."""
    t = torch.arange(24_000) / 24_000
    voice = 0.3 * torch.sin(2 * torch.pi * (150 + 200 * t) * t)
    other = 0.2 * torch.sin(2 * torch.pi * 333 * t) * torch.sin(2 * torch.pi * 3 * t)
    prompt, source = voice[:9_600], (voice + other)[9_600:]
    if task == "l2s":
        return Request(task, prompt, features=torch.sin(torch.arange(30)[:, None] * torch.arange(1, 65) / 50))
    if task == "tts":
        return Request(task, prompt, phones=(5, 80, 100, 30), samples=12_000)
    return Request(task, None if task == "se" else prompt, source)


@pytest.mark.parametrize("task", EXPECTED["bundle"])
def test_a_bundle_gives_the_tokens_that_it_gave(task: str) -> None:
    metis = Metis.from_pretrained(str(BEFORE / "bundle"), task)
    assert metis.generate([request_of(task)], 3)[0].ssl_tokens.tolist() == EXPECTED["bundle"][task]


def test_a_checkpoint_gives_the_tokens_that_it_gave() -> None:
    metis = Metis.from_pretrained(str(BEFORE / "checkpoint.ckpt"), "tse", base=str(BEFORE / "bundle"))
    assert metis.generate([request_of("tse")], 3)[0].ssl_tokens.tolist() == EXPECTED["checkpoint"]


def test_a_run_goes_on_from_a_checkpoint_as_it_did(tmp_path: Path) -> None:
    shutil.copytree(BEFORE / "bundle", tmp_path / "bundle")
    shutil.copy(BEFORE / "fit.yaml", tmp_path)
    said = tmp_path / "said.txt"
    line = ["fit", "-c", "fit.yaml", "--trainer.max_steps=4", "--ckpt_path", str(BEFORE / "checkpoint.ckpt")]
    assert run_command(line, tmp_path, said) == 0, said.read_text()
    content = torch.load(tmp_path / "runs/tse/checkpoints/step=4.ckpt", weights_only=True)
    # Of the same batches: the plan is a hash of what was drawn.
    assert content["StarterDataModule"] == DataPosition.from_state(EXPECTED["place"], "of before").state()
    assert content["state_dict"].keys() == EXPECTED["resumed"].keys()
    for name, value in content["state_dict"].items():
        assert [float(value.sum()), float(value.norm())] == pytest.approx(EXPECTED["resumed"][name], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("path", RENAMED.values())
def test_a_new_path_is_that_of_a_class(path: str) -> None:
    module, _, name = f"metis_lightning.{path}".rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type)


def test_class_paths_are_renamed_at_any_depth_and_no_other_text_is() -> None:
    old, new = "metis_lightning.tasks.tse.TseModule", "metis_lightning.tasks.conditioned.TseModule"
    settings = {"a": [{"class_path": old, "init_args": {"name": old, "x": {"class_path": old}}}], "n": 1}
    assert with_current_class_paths(settings) == {
        "a": [{"class_path": new, "init_args": {"name": old, "x": {"class_path": new}}}],
        "n": 1,
    }
    assert current_class_path("tasks.tse.TseModule") == "tasks.tse.TseModule"
