"""What a run leaves is what inference loads: LoRA or whole stage 1, resumed or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer

from metis_lightning.models.lora import merge_lora
from metis_lightning.pipeline import Metis
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.conditioned import OmniModule
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.tokens.whisper import WhisperFeatures
from metis_lightning.weights.build import load_base, load_task
from metis_lightning.weights.bundle import Part, read_index, read_part, write_part
from metis_lightning.weights.export import export, main
from one_batch import OPTIMIZER, SCHEDULE, fit, make_tse
from tiny import ACOUSTIC, SEMANTIC


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
def test_the_pipeline_loads_what_was_trained(rank: int, tiny_bundle: Path, tmp_path: Path) -> None:
    module = make_tse(tiny_bundle, rank)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    loaded = Metis.from_pretrained(str(tmp_path / "a.ckpt"), base=str(tiny_bundle)).stage1["tse"].state_dict()
    merge_lora(module.model)
    trained = module.model.state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())


def test_a_full_run_is_exported_whole(tiny_bundle: Path, tmp_path: Path) -> None:
    module = make_tse(tiny_bundle, 0)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    assert export(tmp_path / "a.ckpt", tmp_path / "bundle") == ["tse"]
    loaded = load_task(tmp_path / "bundle", "tse").state_dict()
    assert all(torch.equal(loaded[name], value.bfloat16().float()) for name, value in module.model.state_dict().items())


def test_a_front_end_keeps_its_licence_its_origin_and_every_bit(tmp_path: Path) -> None:
    features = WhisperFeatures(num_layers=1, dim=32, num_heads=2, num_mels=16)
    # Statistics that are set are not measured again.
    features.std.fill_(2.0)
    config = {"kind": "whisper", **features.config()}
    origin = {"licence": "MIT", "source": {"model": "of a test"}}
    write_part(tmp_path / "old", "ssl_features", Part(config, features.state_dict(), origin=origin), torch.int8)
    sizes = replace(SEMANTIC, hidden_size=32)
    module = SemanticCodecModule(sizes, str(tmp_path / "old"), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    command = [str(tmp_path / "a.ckpt"), str(tmp_path / "new"), "--dtype", "int8"]
    assert main([*command, "--parts", "stage1"]) == 2
    assert main([*command, "--parts", "semantic_codec"]) == 0
    assert set(read_index(tmp_path / "new")["parts"]) == {"semantic_codec"}
    assert main(command) == 0
    old, new = (read_index(tmp_path / folder)["parts"]["ssl_features"] for folder in ("old", "new"))
    assert new == old and new["licence"] == "MIT"
    assert "int8" in read_index(tmp_path / "new")["parts"]["semantic_codec"]["dtype"]


def test_a_stage_1_of_its_own_becomes_the_base_of_its_task(tiny_bundle: Path, tmp_path: Path) -> None:
    settings = {"text": "utf8", "gate_init": 0.5, "optimizer": OPTIMIZER, "lr_scheduler": SCHEDULE}
    module = OmniModule(base=str(tiny_bundle), **settings)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    command = [str(tmp_path / "a.ckpt"), str(tmp_path / "bundle"), "--dtype", "float32", "--as-base"]
    assert main(command) == 0
    loaded, own = load_task(tmp_path / "bundle", "omni").state_dict(), module.model.state_dict()
    assert loaded.keys() == own.keys() and all(torch.equal(loaded[name], value) for name, value in own.items())
    added = ("model.cond_adapter.", "model.phone_emb.", "model.diff_estimator.cond_mlp.")
    assert all(name.startswith(added) for name in read_part(tmp_path / "bundle", "omni").tensors)
    assert load_base(tmp_path / "bundle")[0].config == replace(module.model.config, use_phone_cond=False)
    # With LoRA nothing but the base's own stage 1 is there to be written.
    fit(make_tse(tiny_bundle, 2), tmp_path, 1).save_checkpoint(tmp_path / "a.ckpt")
    assert main(command) == 2


@torch.no_grad()
def test_merging_keeps_phones_and_condition(tiny_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = OmniModule(
        base=str(tiny_bundle), text="utf8", lora_rank=2, gate_init=0.5, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE
    )
    with torch.enable_grad():
        fit(module, tmp_path, 5).save_checkpoint(tmp_path / "a.ckpt")
    export(tmp_path / "a.ckpt", tmp_path / "bundle", merge_with=tiny_bundle)
    merged = load_task(tmp_path / "bundle", "omni")
    assert not any("lora" in name for name in merged.state_dict())
    tokens, condition, phones = torch.arange(12)[None], torch.randn(1, 12, 160), torch.tensor([[-1, 5, 9]])
    inputs = (tokens, tokens % 2 == 0, torch.tensor([0.4]), None, condition)
    ours = module.model.eval()(*inputs, phones=phones)
    torch.testing.assert_close(merged(*inputs, phones=phones), ours, rtol=0, atol=1e-5)
    assert not torch.allclose(merged(*inputs), ours, atol=1e-3)


def test_resuming_wraps_once_and_keeps_every_weight(tiny_bundle: Path, tmp_path: Path) -> None:
    module = make_tse(tiny_bundle)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    resumed = make_tse(tiny_bundle)
    fit(resumed, tmp_path, 2, tmp_path / "a.ckpt")
    before, after = module.state_dict(), resumed.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    wrapped = [m for m in resumed.modules() if isinstance(m, LoraLayer)]
    assert len(wrapped) == 7 * resumed.model.config.num_layers
    assert not any(isinstance(layer.base_layer, LoraLayer) for layer in wrapped)


def test_a_strangers_origin_names_no_other_field_of_the_index(tmp_path: Path) -> None:
    origin = {"licence": "MIT", "sha256": "0" * 64, "config": {"kind": "other"}, "parameters": -1}
    write_part(tmp_path, "part", Part({"kind": "own"}, {"weight": torch.ones(2)}, origin=origin))
    entry = read_index(tmp_path)["parts"]["part"]
    assert (entry["licence"], entry["config"], entry["parameters"]) == ("MIT", {"kind": "own"}, 2)
    assert read_part(tmp_path, "part").origin == {"licence": "MIT"}


def test_a_codec_that_starts_from_anothers_weights_keeps_their_licence(tiny_bundle: Path, tmp_path: Path) -> None:
    codec = read_part(tiny_bundle, "acoustic_codec")
    write_part(tmp_path, "acoustic_codec", replace(codec, origin={"licence": "CC-BY-NC-4.0"}))
    module = AcousticCodecModule(
        ACOUSTIC, start_from=str(tmp_path), decoder_only=True, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE
    )
    fit(module, tmp_path, 1).save_checkpoint(tmp_path / "a.ckpt")
    export(tmp_path / "a.ckpt", tmp_path / "new")
    assert read_part(tmp_path / "new", "acoustic_codec").origin == {"licence": "CC-BY-NC-4.0"}
