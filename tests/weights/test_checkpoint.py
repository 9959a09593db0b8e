"""A checkpoint is whole, sound and finite, or it is one line that names the file and the field."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.weights.bundle import Part, read_part, write_part
from metis_lightning.weights.checkpoint import checkpoint_parts, newest_whole, read_checkpoint, write_checkpoint
from metis_lightning.weights.checks import check_run
from metis_lightning.weights.export import main

NAN = float("nan")


def content(step: int = 3) -> dict[str, Any]:
    weights = {"model.a": torch.arange(100.0), "model.b": torch.ones(3, 4).bfloat16()}
    return {
        "state_dict": weights,
        "pytorch-lightning_version": "2.6.6",
        "epoch": 0,
        "global_step": step,
        "callbacks": {"ModelCheckpoint{}": {"kth_value": torch.tensor(float("inf"))}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"params": [0]}]}],
        "lr_schedulers": [{"last_epoch": 3}],
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "bundle_parts": {"stage1": {"config": {}, "prefix": "model."}},
        "ema": {"weights": {"model.a": torch.zeros(100)}, "updates": 3, "validate_with": "raw"},
    }


LOOP = {"state_dict": {}, "epoch_progress": {"total": {"ready": 0}}}


def test_what_was_written_is_read_and_pytorch_reads_it_too(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(), path)
    for found in (read_checkpoint(path), torch.load(path, weights_only=True, mmap=True)):
        assert torch.equal(found["state_dict"]["model.a"], torch.arange(100.0))
    check_run(read_checkpoint(path), LOOP, "it")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_changed_byte_is_refused_or_changes_nothing(sealed: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(content(), path) if sealed else torch.save(content(), path)
    whole, accepted = path.read_bytes(), []
    for place in [*range(0, len(whole), 97), *range(len(whole) - 400, len(whole))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = read_checkpoint(path)
        except UserError:
            continue
        accepted.append(place)
        assert torch.equal(found["state_dict"]["model.a"], torch.arange(100.0))
    assert bool(accepted) != sealed


def test_a_damaged_one_is_named_with_the_newest_sound_one(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        write_checkpoint(content(step), tmp_path / f"step={step}.ckpt")
    torch.save({**content(12), "state_dict": {"w": torch.tensor(NAN)}}, tmp_path / "step=12.ckpt")
    last = tmp_path / "step=9.ckpt"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(
        UserError, match=r"step=9.ckpt is damaged .* the newest whole one there is .*step=6.ckpt, of step 6"
    ):
        read_checkpoint(last)
    assert newest_whole(tmp_path) == (tmp_path / "step=6.ckpt", 6)
    (tmp_path / "theirs").mkdir()
    torch.save({"state_dict": {"w": torch.zeros(1)}}, tmp_path / "theirs" / "w.ckpt")
    assert newest_whole(tmp_path / "theirs") is None


def full_disk(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    with pytest.raises(UserError, match="cannot be written.*; the one that is there stays as it was"):
        write_checkpoint(content(6), path)


def test_a_disk_that_does_not_take_it_leaves_the_old_one(tmp_path: Path) -> None:
    write_checkpoint(content(3), tmp_path / "last.ckpt")
    process = multiprocessing.get_context("fork").Process(target=full_disk, args=(tmp_path / "last.ckpt",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    made = deepcopy(content())
    change(made)
    return made


NOT_FINITE = [
    (lambda c: c["state_dict"].update({"model.b": torch.tensor([1, NAN])}), "state_dict.model.b"),
    (lambda c: c["ema"]["weights"].update({"model.a": torch.tensor(NAN)}), "ema.weights.model.a"),
    (
        lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.tensor([0, float("-inf")])),
        "optimizer_states.0.state.0.exp_avg",
    ),
]


@pytest.mark.parametrize(("change", "name"), NOT_FINITE, ids=[name for _, name in NOT_FINITE])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(change: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(3), path)
    with pytest.raises(UserError, match=f"'{name}' holds NaN or infinity"):
        write_checkpoint(changed(change), path)
    assert read_checkpoint(path)["global_step"] == 3
    torch.save(changed(change), path)
    with pytest.raises(UserError, match=f"'{name}' holds NaN or infinity"):
        read_checkpoint(path)
    assert main([str(path), str(tmp_path / "bundle")]) == 2
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_takes_and_gives_finite_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'w' holds NaN or infinity"):
        write_part(tmp_path, "stage1", Part({}, {"w": torch.tensor([NAN])}))
    # Half precision has no such number.
    with pytest.raises(UserError, match="'w' holds NaN or infinity"):
        write_part(tmp_path, "stage1", Part({}, {"w": torch.tensor([1e6])}), torch.float16)
    assert not (tmp_path / "stage1.safetensors").exists()
    with monkeypatch.context() as unguarded:
        unguarded.setattr("metis_lightning.weights.bundle.check_finite", lambda *_: None)
        write_part(tmp_path, "stage1", Part({}, {"w": torch.tensor([NAN])}))
    with pytest.raises(UserError, match="stage1.safetensors: 'w' holds NaN or infinity"):
        read_part(tmp_path, "stage1")


MALFORMED = [
    (lambda c: c.update(state_dict=None), "state_dict"),
    (lambda c: c.pop("state_dict"), "state_dict"),
    (lambda c: c["state_dict"].update(a=1), "state_dict.a"),
    (lambda c: c.update(bundle_parts=[1]), "bundle_parts"),
    (lambda c: c.update(bundle_parts={"tse": 3}), "bundle_parts.tse"),
    (lambda c: c.update(bundle_parts={3: {"config": {}, "prefix": ""}}), "bundle_parts.3"),
    (lambda c: c["bundle_parts"]["stage1"].pop("prefix"), "bundle_parts.stage1.prefix"),
    (lambda c: c["bundle_parts"]["stage1"].update(config="x"), "bundle_parts.stage1.config"),
    (lambda c: c.update(ema=[1]), "ema"),
    (lambda c: c["ema"].update(weights=3), "ema.weights"),
    (lambda c: c["ema"].update(validate_with="x"), "ema.validate_with"),
    (lambda c: c.update(global_step="x"), "global_step"),
]


@pytest.mark.parametrize(("change", "field"), MALFORMED, ids=[f"{n} {field}" for n, (_, field) in enumerate(MALFORMED)])
def test_a_field_of_another_kind_is_named(change: Any, field: str, tmp_path: Path) -> None:
    torch.save(changed(change), tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=rf"a.ckpt: its field {field} is "):
        checkpoint_parts(tmp_path / "a.ckpt")
    assert main([str(tmp_path / "a.ckpt"), str(tmp_path / "bundle")]) == 2


MALFORMED_RUNS = [
    (lambda c: c.pop("pytorch-lightning_version"), "pytorch-lightning_version"),
    (lambda c: c.update({"pytorch-lightning_version": "x"}), "pytorch-lightning_version"),
    (lambda c: c.update(optimizer_states={}), "optimizer_states"),
    (lambda c: c.update(optimizer_states=[{}]), "optimizer_states.0.state"),
    (lambda c: c["optimizer_states"][0]["state"].update({0: 3}), "optimizer_states.0.state.0"),
    (lambda c: c["optimizer_states"][0].update(param_groups=[{}]), "optimizer_states.0.param_groups.0.params"),
    (lambda c: c.update(lr_schedulers=[1]), "lr_schedulers.0"),
    (lambda c: c.update(callbacks=[1]), "callbacks"),
    (lambda c: c.update(loops={}), "loops.fit_loop"),
    (lambda c: c.update(loops={"fit_loop": {}}), "loops.fit_loop.state_dict"),
    (lambda c: c["loops"]["fit_loop"]["epoch_progress"].update(total=3), "loops.fit_loop.epoch_progress.total"),
]


@pytest.mark.parametrize(
    ("change", "field"), MALFORMED_RUNS, ids=[f"{n} {field}" for n, (_, field) in enumerate(MALFORMED_RUNS)]
)
def test_a_field_that_a_run_goes_on_from_is_named(change: Any, field: str) -> None:
    with pytest.raises(UserError, match=f"^it: its field {field} is "):
        check_run(changed(change), LOOP, "it")


@pytest.mark.parametrize("kind", ["empty", "text", "half", "list", "pickle"])
def test_what_is_no_checkpoint_is_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(content(), path)
    made = {"empty": b"", "text": b"<html>", "half": path.read_bytes()[:700], "pickle": b"\x80\x04]\x94."}
    torch.save([1], path) if kind == "list" else path.write_bytes(made[kind])
    assert main([str(path), str(tmp_path / "bundle")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.ckpt" in line
