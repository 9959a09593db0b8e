"""Bundles: round trips, and every way in which one can be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.models.stage1 import Stage1
from metis_lightning.weights.build import load_base, load_task, load_weights
from metis_lightning.weights.bundle import INDEX, Part, bundle_folder, read_part, write_part
from metis_lightning.weights.export import checkpoint_parts, export
from tiny import STAGE1


def test_a_part_makes_the_round_trip_in_bfloat16(tmp_path: Path) -> None:
    tensor = torch.randn(5, 3)
    write_part(tmp_path, "stage1", Part({"a": 1, "b": [2, 3]}, {"w": tensor}))
    part = read_part(tmp_path, "stage1")
    assert part.config == {"a": 1, "b": [2, 3]}
    assert torch.equal(part.tensors["w"], tensor.bfloat16().float())


def test_a_changed_file_is_refused(tiny_bundle_copy: Path) -> None:
    path = tiny_bundle_copy / "stage1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="SHA-256"):
        load_base(tiny_bundle_copy)


def test_a_lora_of_another_base_is_refused_with_both_hashes(tiny_bundle_copy: Path) -> None:
    before = read_part(tiny_bundle_copy, "stage1").sha256
    write_part(tiny_bundle_copy, "stage1", Part(STAGE1.__dict__, Stage1(STAGE1).state_dict()))
    after = read_part(tiny_bundle_copy, "stage1").sha256
    with pytest.raises(UserError, match=f"{before}.*{after}"):
        load_task(tiny_bundle_copy, "tse")


def test_missing_things_are_named(tiny_bundle_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        bundle_folder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="'vc'"):
        load_task(tiny_bundle_copy, "vc")
    (tiny_bundle_copy / "stage1.safetensors").unlink()
    with pytest.raises(UserError, match=r"stage1\.safetensors is missing"):
        load_base(tiny_bundle_copy)
    (tiny_bundle_copy / INDEX).write_text("just text")
    with pytest.raises(UserError, match="not a bundle index"):
        load_base(tiny_bundle_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("mask_emb.weight"), "lack 'mask_emb.weight'"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected 'extra'"),
        (lambda w: w.update({"mask_emb.weight": torch.zeros(1, 3)}), r"shape \(1, 3\).*needs \(1, 16\)"),
    ],
)
def test_weights_load_by_exactly_their_names_and_shapes(change, message: str) -> None:
    weights = dict(Stage1(STAGE1).state_dict())
    change(weights)
    with pytest.raises(UserError, match=message):
        load_weights(Stage1(STAGE1), weights, "stage1")


def test_a_part_cannot_be_written_outside_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="letters"):
        write_part(tmp_path, "../evil", Part({}, {"w": torch.zeros(1)}))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (Path("pwned"),))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.ckpt", "pickle.ckpt"):
        with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
            checkpoint_parts(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_export_writes_the_parts_that_a_checkpoint_names(tmp_path: Path) -> None:
    state = {"model.w": torch.ones(2), "other.w": torch.zeros(2)}
    described = {"stage1": {"config": {"hidden_size": 16}, "prefix": "model."}}
    torch.save({"state_dict": state, "bundle_parts": described}, tmp_path / "a.ckpt")
    assert export(tmp_path / "a.ckpt", tmp_path / "bundle") == ["stage1"]
    part = read_part(tmp_path / "bundle", "stage1")
    assert part.config == {"hidden_size": 16}
    assert list(part.tensors) == ["w"]
    torch.save({"state_dict": state}, tmp_path / "b.ckpt")
    with pytest.raises(UserError, match="names no parts"):
        export(tmp_path / "b.ckpt", tmp_path / "bundle")
