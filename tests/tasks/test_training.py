"""LoRA checkpoints are small and refuse strangers; the base stays as it was; codecs and pre-training go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.models.lora import merge_lora
from metis_lightning.pipeline import Metis
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.pretrain import PretrainModule
from one_batch import OPTIMIZER, SCHEDULE, fit, make_tse, speech_batch
from tiny import STAGE1, WIDTH


def scores(module: TrainableModule) -> Mapping[str, float]:
    """The scores of a validation with fixed draws."""
    module.eval()
    with torch.no_grad():
        values = module.losses(speech_batch(), torch.Generator().manual_seed(0))
    return {name: float(value) for name, value in values.items()}


def test_a_lora_checkpoint_holds_the_trained_weights_alone_and_speaks(tiny_bundle: Path, tmp_path: Path) -> None:
    module = make_tse(tiny_bundle)
    fit(module, tmp_path, 3).save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert set(state) == module.checkpoint_keys()
    assert "model.cond_adapter.gate_scale" in state
    assert all("lora_" in name or "cond_adapter" in name for name in state)
    metis = Metis.from_pretrained(str(tmp_path / "a.ckpt"), base=str(tiny_bundle))
    loaded = metis.stage1["tse"].state_dict()
    merge_lora(module.model)
    assert all(torch.equal(loaded[name], value) for name, value in module.model.state_dict().items())


def test_strange_checkpoints_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    fit(make_tse(tiny_bundle), tmp_path, 1).save_checkpoint(tmp_path / "rank2.ckpt")
    with pytest.raises(UserError, match=r"lora_A.*shape \(2, \d+\).*needs \(4, \d+\)"):
        fit(make_tse(tiny_bundle, rank=4), tmp_path, 2, tmp_path / "rank2.ckpt")
    module = make_tse(tiny_bundle)
    module.base, trained_on, module.base_sha256 = "other", module.base_sha256, "another"
    with pytest.raises(UserError, match=rf"base '.*tiny' with SHA-256 {trained_on}, the base 'other' has another"):
        fit(module, tmp_path, 2, tmp_path / "rank2.ckpt")


def test_the_base_stays_as_it_was_and_validation_compares_with_it(tiny_bundle: Path, tmp_path: Path) -> None:
    module = make_tse(tiny_bundle)
    base = {name: value.clone() for name, value in module.state_dict().items() if name not in module.checkpoint_keys()}
    before = scores(module)
    fit(module, tmp_path, 60)
    after = scores(module)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in base.items())
    assert after["base_loss"] == pytest.approx(before["base_loss"], abs=1e-6)
    assert after["loss"] < after["base_loss"] - 0.1


def test_the_condition_is_what_is_heard(tiny_bundle: Path) -> None:
    module = make_tse(tiny_bundle)
    batch = speech_batch()
    features, _ = module.tokenizer.ssl_features(batch.source, batch.lengths)
    assert torch.equal(module.condition(batch), features)
    assert features.shape[-1] == 160
    assert module.model.config.hidden_size == WIDTH


def test_unigram_baseline_counts_training_tokens(tiny_bundle: Path, tmp_path: Path) -> None:
    module = PretrainModule(STAGE1, str(tiny_bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    fit(module, tmp_path, 2)
    _, frames = module.tokenizer.ssl_tokens(speech_batch().wave, speech_batch().lengths)
    assert module.unigram.counts.sum() == STAGE1.codebook_size + 2 * frames.sum()
    values = scores(module)
    assert values["unigram_loss"] > 0
    assert 0 <= values["unigram_acc"] <= 1


def test_a_checkpoint_outlives_a_change_of_the_front_end(tiny_bundle: Path, tmp_path: Path) -> None:
    module = PretrainModule(STAGE1, str(tiny_bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    fit(module, tmp_path, 1).save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("tokenizer.") for name in state)
    again = PretrainModule(STAGE1, str(tiny_bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    again.tokenizer.acoustic_codec = None
    fit(again, tmp_path, 1, tmp_path / "a.ckpt")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in state.items())
    wider = PretrainModule(
        replace(STAGE1, hidden_size=32), str(tiny_bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE
    )
    with pytest.raises(UserError, match=r"has shape .*16.*needs .*32"):
        fit(wider, tmp_path, 2, tmp_path / "a.ckpt")
