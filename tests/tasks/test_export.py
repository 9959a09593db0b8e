"""What a run leaves is what inference loads: LoRA or whole stage 1, resumed or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer

from metis_lightning.pipeline import Metis
from metis_lightning.weights.build import load_task
from metis_lightning.weights.export import export
from one_batch import fit, make_tse


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
def test_the_pipeline_loads_what_was_trained(rank: int, tiny_bundle: Path, tmp_path: Path) -> None:
    module = make_tse(tiny_bundle, rank)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    trained = module.model.state_dict()
    loaded = Metis.from_pretrained(str(tmp_path / "a.ckpt"), base=str(tiny_bundle)).stage1["tse"].state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())


def test_a_full_run_is_exported_whole(tiny_bundle: Path, tmp_path: Path) -> None:
    module = make_tse(tiny_bundle, 0)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    assert export(tmp_path / "a.ckpt", tmp_path / "bundle") == ["tse"]
    loaded = load_task(tmp_path / "bundle", "tse").state_dict()
    assert all(torch.equal(loaded[name], value.bfloat16().float()) for name, value in module.model.state_dict().items())


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
