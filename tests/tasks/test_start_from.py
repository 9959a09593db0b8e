"""Training that starts at the weights of an earlier run, or of a bundle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.semantic_to_acoustic import SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1Config
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.conditioned import OmniModule, SeModule, TseModule
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule
from metis_lightning.weights.build import config_from
from metis_lightning.weights.bundle import read_part
from one_batch import OPTIMIZER, SCHEDULE, fit

SETTINGS: dict[str, Any] = {"optimizer": OPTIMIZER, "lr_scheduler": SCHEDULE}


def weights(module: TrainableModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.model.state_dict().items()}


@pytest.mark.parametrize("part", ["stage1", "s2a_full"])
def test_starts_at_a_bundles_weights_and_at_a_checkpoints(part: str, tiny_bundle: Path, tmp_path: Path) -> None:
    make: partial[TrainableModule]
    if part == "stage1":
        sizes = config_from(Stage1Config, read_part(tiny_bundle, part).config)
        make = partial(PretrainModule, sizes, str(tiny_bundle), **SETTINGS)
    else:
        sizes = config_from(SemanticToAcousticConfig, read_part(tiny_bundle, part).config)
        make = partial(SemanticToAcousticModule, part, sizes, str(tiny_bundle), **SETTINGS)
    module, stored = make(start_from=str(tiny_bundle)), read_part(tiny_bundle, part).tensors
    assert all(torch.equal(value, stored[name]) for name, value in weights(module).items())
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    trained = weights(module)
    assert any(not torch.equal(value, stored[name]) for name, value in trained.items())
    again = weights(make(start_from=str(tmp_path / "a.ckpt")))
    assert all(torch.equal(value, trained[name]) for name, value in again.items())
    fit(TseModule(base=str(tiny_bundle), **SETTINGS), tmp_path, 1).save_checkpoint(tmp_path / "tse.ckpt")
    with pytest.raises(UserError, match=f"holds no '{part}', only tse"):
        make(start_from=str(tmp_path / "tse.ckpt"))


def test_a_model_of_stage_2_starts_at_the_other(tiny_bundle: Path, tmp_path: Path) -> None:
    sizes = config_from(SemanticToAcousticConfig, read_part(tiny_bundle, "s2a_1layer").config)
    first = SemanticToAcousticModule("s2a_1layer", sizes, str(tiny_bundle), **SETTINGS)
    fit(first, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    sizes = replace(sizes, num_quantizers=3, first_layer=1)
    full = SemanticToAcousticModule(
        "s2a_full", sizes, str(tiny_bundle), start_from=str(tmp_path / "a.ckpt"), **SETTINGS
    )
    theirs = weights(first)
    shared = {name for name, value in weights(full).items() if name in theirs and value.shape == theirs[name].shape}
    assert set(theirs) - shared == {"layer_emb.weight"}
    assert all(torch.equal(weights(full)[name], theirs[name]) for name in shared)


def test_a_task_starts_at_the_model_of_all_tasks(tiny_bundle: Path, tmp_path: Path) -> None:
    omni = OmniModule(base=str(tiny_bundle), text="utf8", gate_init=0.5, **SETTINGS)
    fit(omni, tmp_path, 2).save_checkpoint(tmp_path / "omni.ckpt")
    start, theirs = {"start_from": str(tmp_path / "omni.ckpt")}, weights(omni)
    full = weights(TseModule(base=str(tiny_bundle), lora_rank=0, **start, **SETTINGS))
    assert all(torch.equal(value, theirs[name]) for name, value in full.items())
    lora = TseModule(base=str(tiny_bundle), lora_rank=2, **start, **SETTINGS)
    adapter = [name for name in theirs if name.startswith("cond_adapter.")]
    assert all(torch.equal(weights(lora)[name], theirs[name]) for name in adapter)
    fit(lora, tmp_path, 2).save_checkpoint(tmp_path / "tse.ckpt")
    same, other = (
        weights(TseModule(base=str(tiny_bundle), lora_rank=rank, start_from=str(tmp_path / "tse.ckpt"), **SETTINGS))
        for rank in (2, 3)
    )
    assert all(torch.equal(value, weights(lora)[name]) for name, value in same.items())
    assert all(torch.equal(other[name], weights(lora)[name]) for name in adapter)
    assert not any(other[name].any() for name in other if "lora_B" in name)
    for module, rank in ((SeModule, 2), (TseModule, 0)):
        with pytest.raises(UserError, match="serve the task 'se'" if rank else "do not fit"):
            module(base=str(tiny_bundle), lora_rank=rank, start_from=str(tmp_path / "tse.ckpt"), **SETTINGS)


def test_the_new_layers_alone_are_trained_on_a_frozen_base(tiny_bundle: Path, tmp_path: Path) -> None:
    module = TseModule(base=str(tiny_bundle), lora_rank=0, freeze_base=True, gate_init=0.5, **SETTINGS)
    before = weights(module)
    fit(module, tmp_path, 2).save_checkpoint(tmp_path / "a.ckpt")
    changed = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("cond_adapter.")}
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert set(kept) == {f"model.{name}" for name in changed}
