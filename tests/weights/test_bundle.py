"""Bundles: round trips, and every way in which one can be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.models.stage1 import Stage1
from metis_lightning.pipeline import Metis
from metis_lightning.state_dicts import difference
from metis_lightning.weights.build import load_base, load_task, load_weights
from metis_lightning.weights.bundle import (
    BUNDLE_INDEX,
    Part,
    bundle_folder,
    read_index,
    read_part,
    write_index,
    write_part,
)
from metis_lightning.weights.checkpoint import checkpoint_parts
from metis_lightning.weights.export import export, main
from tiny import STAGE1, WIDTH


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
    (tiny_bundle_copy / BUNDLE_INDEX).write_text("just text")
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
        with pytest.raises(UserError, match="is refused: it holds more|damaged or not a checkpoint"):
            checkpoint_parts(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "model.ckpt", "bundle"])
def test_a_pickle_posing_as_weights_is_one_line_and_is_not_run(
    name: str, tiny_bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "bundle":
        # Even where the index vouches for it.
        (tiny_bundle_copy / "stage1.safetensors").write_bytes(pickle.dumps(Evil()))
        index = read_index(tiny_bundle_copy)
        index["parts"]["stage1"]["sha256"] = sha256_of(tiny_bundle_copy / "stage1.safetensors")
        write_index(tiny_bundle_copy, index)
        name = str(tiny_bundle_copy)
    else:
        Path(name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError) as refused:
        Metis.from_pretrained(name, "tse", base=str(tiny_bundle_copy))
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "pwned").exists()


def test_a_changed_byte_anywhere_in_an_index_is_one_line(tiny_bundle_copy: Path) -> None:
    index = tiny_bundle_copy / BUNDLE_INDEX
    data = index.read_bytes()
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        index.write_bytes(changed)
        with pytest.raises(UserError) as refused:
            Metis.from_pretrained(str(tiny_bundle_copy), "tse")
        assert "bundle" in str(refused.value)


def test_an_index_cannot_run_code(tiny_bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tiny_bundle_copy / BUNDLE_INDEX).write_text("parts: !!python/object/apply:pathlib.Path.touch [pwned]")
    with pytest.raises(UserError, match="not YAML"):
        Metis.from_pretrained(str(tiny_bundle_copy))
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


def test_a_difference_names_every_weight_and_layers_once() -> None:
    needed = {f"layers.{i}.w": torch.zeros(4) for i in range(3)} | {"head": torch.zeros(2), "same": torch.zeros(1)}
    given = {f"layers.{i}.w": torch.zeros(2) for i in range(3)} | {"tail": torch.zeros(2), "same": torch.zeros(1)}
    assert difference(needed, given) == (
        "they lack 'head'; 'layers.*.w' (3 such) has shape (2,), the model needs (4,); unexpected 'tail'"
    )
    assert difference(needed, needed) == ""


def tse_checkpoint(bundle: Path, path: Path) -> Stage1:
    """Write a checkpoint with raw and averaged weights of a TSE LoRA; return the raw model."""
    model = load_task(bundle, "tse")
    for name, parameter in model.named_parameters():
        if "lora_" in name or "cond_adapter" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    part = read_part(bundle, "tse")
    state = {name: model.state_dict()[name.removeprefix("model.")].clone() for name in part.tensors}
    ema = {"weights": {name: value / 2 for name, value in state.items()}, "validate_with": "ema", "updates": 1}
    described = {"tse": {"config": dict(part.config), "prefix": ""}}
    torch.save({"state_dict": state, "bundle_parts": described, "ema": ema}, path)
    return model


def test_merged_weights_compute_what_unmerged_ones_do_and_need_no_base(tiny_bundle: Path, tmp_path: Path) -> None:
    unmerged = tse_checkpoint(tiny_bundle, tmp_path / "a.ckpt")
    line = [str(tmp_path / "a.ckpt"), str(tmp_path / "bundle"), "--weights=raw", "--merge", f"--base={tiny_bundle}"]
    assert main(line) == 0
    merged = load_task(tmp_path / "bundle", "tse")
    assert not any("lora" in name for name in merged.state_dict())
    tokens, condition = torch.arange(12)[None], torch.randn(1, 12, 160)
    inputs = (tokens, tokens % 2 == 0, torch.tensor([0.4]), None, condition)
    with torch.no_grad():
        torch.testing.assert_close(merged(*inputs), unmerged(*inputs), rtol=0, atol=1e-5)
    assert merged.config.hidden_size == WIDTH


def test_which_weights_are_exported_is_a_choice_that_defaults_to_validations(tiny_bundle: Path, tmp_path: Path) -> None:
    tse_checkpoint(tiny_bundle, tmp_path / "a.ckpt")
    raw, ema, default = (
        checkpoint_parts(tmp_path / "a.ckpt", choice)["tse"].tensors for choice in ("raw", "ema", None)
    )
    assert all(torch.equal(ema[name], value / 2) for name, value in raw.items())
    assert all(torch.equal(default[name], value) for name, value in ema.items())


def test_an_average_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "bundle_parts": {"stage1": {"config": {}, "prefix": ""}}}, tmp_path / "a.ckpt")
    assert main([str(tmp_path / "a.ckpt"), str(tmp_path / "b"), "--weights=ema"]) == 2
    assert "holds no EMA weights" in capsys.readouterr().err
    assert main([str(tmp_path / "a.ckpt"), str(tmp_path / "b"), "--merge"]) == 2
    assert "no LoRA to merge" in capsys.readouterr().err
