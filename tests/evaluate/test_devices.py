"""Which device the processes of an evaluation work on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from metis_lightning.cli.command import CommandParser
from metis_lightning.cli.main import COMMANDS, main
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.run import main as evaluation
from metis_lightning.evaluate.run.launch import device_of
from metis_lightning.evaluate.run.outputs import Items
from metis_lightning.evaluate.run.systems import make_systems
from metis_lightning.generate.weights import load_metis
from metis_lightning.options import Precision
from metis_lightning.pipeline import Metis
from pretended_gpu import GPU, SECOND, PretendedCuda


class _Planned(Exception):
    pass


def options(*arguments: str) -> EvaluateOptions:
    """The options of `evaluate`."""
    return CommandParser("evaluate", COMMANDS["evaluate"]).options(["--task", "tse", *arguments])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PretendedCuda:
    def plan(options: EvaluateOptions, device: str) -> None:
        raise _Planned(device)

    monkeypatch.setattr(evaluation, "make_plan", plan)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return PretendedCuda(monkeypatch)


@pytest.mark.parametrize(("rank", "device"), [(0, GPU), (1, SECOND), (2, GPU)])
def test_a_process_works_on_its_own_gpu_from_the_start(
    rank: int, device: torch.device, cuda: PretendedCuda, tmp_path: Path
) -> None:
    with pytest.raises(_Planned, match=str(device)):
        evaluation.run_rank(rank, tmp_path, options(), None)
    assert cuda.events == [("set_device", device)]
    assert cuda.current == device


def test_so_does_a_process_of_torchrun(cuda: PretendedCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(_Planned, match="cuda:1"):
        evaluation.run_evaluate(options("--device", "cuda", "--out", str(tmp_path)))
    assert cuda.events == [("set_device", SECOND)]


def test_what_starts_the_others_takes_no_memory_of_a_gpu(cuda: PretendedCuda, tmp_path: Path) -> None:
    with pytest.raises(_Planned):
        evaluation.run_evaluate(options("--devices", "2", "--out", str(tmp_path)))
    assert cuda.events == []


def test_a_gpu_that_is_not_there_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert device_of(None) == "cpu"
    assert main(["evaluate", "--task", "tse", "--device", "cuda"]) == 2
    assert "--device cuda: PyTorch finds no GPU here; leave it out, or give cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "asked", "used"),
    [
        ("cuda:1", None, "bfloat16"),
        ("cuda:0", "float32", "float32"),
        ("cpu", None, "float32"),
        ("cpu", "bfloat16", "bfloat16"),
    ],
)
def test_a_systems_identity_names_its_precision(
    device: str, asked: Precision | None, used: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple] = []
    monkeypatch.setattr(Metis, "from_pretrained", lambda *given: loaded.append(given))
    chosen = options("--base", str(tiny_bundle), *(["--precision", asked] if asked else []))
    (system,) = make_systems([str(tiny_bundle)], chosen, device, Items((), ()))
    system.load()
    assert loaded == [(str(tiny_bundle), "tse", str(tiny_bundle), device, used)]
    # Results of before there was a choice, all of float32, keep their fingerprint.
    assert system.identity.get("precision", "float32") == used
    assert ("precision" in system.identity) == (used != "float32")


@pytest.mark.parametrize(("options", "used"), [([], "bfloat16"), (["--precision", "float32"], "float32")])
def test_generate_computes_in_bfloat16_on_a_gpu(
    cuda: PretendedCuda, options: list[str], used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple] = []
    monkeypatch.setattr(Metis, "from_pretrained", lambda *given: loaded.append(given) or SimpleNamespace(text=None))
    load_metis("nano", "se", CommandParser("app", COMMANDS["app"]).options(options))
    assert loaded == [("nano", "se", "nano", "cuda", used)]
