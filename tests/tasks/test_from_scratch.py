"""Stage 1 without pre-training: the base's sizes and tokens, and none of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.weights.build import load_base
from one_batch import OPTIMIZER, SCHEDULE, fit, mean_accuracy, speech_batch


def make(bundle: Path, seed: int = 0, **options: object) -> TseModule:
    torch.manual_seed(seed)
    return TseModule(str(bundle), lora_rank=0, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE, **options)


def test_only_sizes_and_tokens_are_the_bases(tiny_bundle: Path) -> None:
    base, digest = load_base(tiny_bundle)
    fresh, tuned = make(tiny_bundle, from_scratch=True), make(tiny_bundle)
    assert (fresh.model.config, fresh.base_sha256) == (base.config, digest)
    assert fresh.state_dict().keys() == tuned.state_dict().keys()
    assert all(parameter.requires_grad for parameter in fresh.model.parameters())
    for name in ("cond_emb.weight", "to_logit.weight", "diff_estimator.layers.0.mlp.up_proj.weight"):
        assert torch.equal(tuned.model.get_parameter(name), base.get_parameter(name))
        assert not torch.equal(fresh.model.get_parameter(name), base.get_parameter(name))
    wave = speech_batch().wave
    tokens = [module.tokenizer.ssl_tokens(wave, speech_batch().lengths)[0] for module in (fresh, tuned)]
    assert torch.equal(*tokens)
    other = make(tiny_bundle, seed=1, from_scratch=True)
    assert not torch.equal(other.model.to_logit.weight, fresh.model.to_logit.weight)


def test_it_learns(tiny_bundle: Path, tmp_path: Path) -> None:
    module, batch = make(tiny_bundle, from_scratch=True), speech_batch()
    before = mean_accuracy(module, batch)
    fit(module.train(), tmp_path, steps=100)
    assert mean_accuracy(module, batch) > max(0.5, 2 * before)


def test_lora_on_random_weights_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="lora_rank must be 0, got 2"):
        TseModule(str(tiny_bundle), lora_rank=2, from_scratch=True)
