"""Lip to speech with its visual encoder in the step: the same as with features made before."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.tasks.conditioned import L2sModule
from metis_lightning.tokens.visual.encoder import AutoAvsrEncoder, VisualSizes
from metis_lightning.types import SpeechBatch

SMALL = VisualSizes(dim=6, num_heads=2, hidden=8, num_layers=1, kernel_size=3, channels=(4, 4, 4, 4))


def batch() -> SpeechBatch:
    generator = torch.Generator().manual_seed(0)
    return SpeechBatch(
        ids=("a", "b"),
        speakers=("x", "y"),
        texts=("", ""),
        wave=torch.randn(2, 7_200, generator=generator) * 0.1,
        lengths=torch.tensor([7_200, 4_800]),
        features=torch.randn(2, 7, 88 * 88, generator=generator),
        feature_lengths=torch.tensor([7, 5]),
    )


@pytest.fixture
def encoder() -> AutoAvsrEncoder:
    torch.manual_seed(0)
    return AutoAvsrEncoder(SMALL)


def test_pictures_become_the_condition_that_features_are(tiny_bundle: Path, encoder: AutoAvsrEncoder) -> None:
    make = partial(L2sModule, base=str(tiny_bundle), lip_dim=6)
    module, data = make(encoder=encoder), batch()
    features = encoder(data.features.unflatten(-1, (88, 88)), data.feature_lengths).detach()
    expected = make().condition(replace(data, features=features))
    condition = module.train().condition(data)
    torch.testing.assert_close(condition, expected)
    assert condition[0].abs().sum() > 0
    assert not condition.requires_grad
    without = replace(
        data, features=data.features[:1], feature_lengths=None, wave=data.wave[:1], lengths=data.lengths[:1]
    )
    torch.testing.assert_close(module.condition(without), expected[:1])


def test_the_encoder_is_neither_trained_nor_saved(tiny_bundle: Path, encoder: AutoAvsrEncoder) -> None:
    module = L2sModule(base=str(tiny_bundle), lip_dim=6, encoder=encoder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    module.train()
    module.losses(batch())["loss"].backward()
    assert not encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert module.checkpoint_keys() == L2sModule(base=str(tiny_bundle), lip_dim=6).checkpoint_keys()


def test_features_instead_of_pictures_are_the_users_mistake(tiny_bundle: Path, encoder: AutoAvsrEncoder) -> None:
    module = L2sModule(base=str(tiny_bundle), lip_dim=6, encoder=encoder)
    with pytest.raises(UserError, match="takes mouth pictures, 7744 values a frame, not 768: use the recipe"):
        module.condition(replace(batch(), features=torch.zeros(2, 7, 768)))
    with pytest.raises(UserError, match="6 wide, lip_dim is 768"):
        L2sModule(base=str(tiny_bundle), encoder=encoder).condition(batch())


def test_an_encoder_of_another_width_is_told_before_anything_is_loaded(encoder: AutoAvsrEncoder) -> None:
    with pytest.raises(UserError, match="6 wide, lip_dim is 8: set it"):
        L2sModule(base="no such bundle", lip_dim=8, encoder=encoder)
