"""Weights of new models are drawn as the released code draws them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metis_lightning.models.backbone import AdaptiveRMSNorm
from metis_lightning.models.lora import Extension, extend
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import GatedAdapter, Stage1, Stage1Config

CONFIG = Stage1Config(hidden_size=64, num_layers=2, num_heads=2, codebook_size=128)


def with_phones() -> Stage1:
    model = Stage1(CONFIG, GatedAdapter(160, 64))
    model.add_phones()
    return model


def extended() -> Stage1:
    model = Stage1(CONFIG)
    extend(model, Extension("gated", 160, phones=True))
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stage1(Stage1Config(64, 2, 2, 128, use_phone_cond=True)),
        with_phones,
        extended,
        lambda: SemanticToAcoustic(SemanticToAcousticConfig(3, 64, 2, 2, 128, 128)),
    ],
    ids=["stage 1", "with phones later", "extended for a task", "stage 2"],
)
def test_every_map_and_embedding_is_normal_of_deviation_a_fiftieth_and_biases_are_zero(make: object) -> None:
    torch.manual_seed(0)
    model = make()
    norms = [part for part in model.modules() if isinstance(part, AdaptiveRMSNorm)]
    seen = 0
    for name, part in model.named_modules():
        if not isinstance(part, nn.Linear | nn.Embedding) or any(part is norm.to_weight for norm in norms):
            continue
        seen, weight = seen + 1, part.weight.detach()
        error = 4 * 0.02 / math.sqrt(2 * weight.numel())
        assert float(weight.std()) == pytest.approx(0.02, abs=error), name
        # Uniform draws of torch's would have a kurtosis of 1.8.
        if weight.numel() > 2_000:
            assert float((weight / weight.std()).pow(4).mean()) == pytest.approx(3, abs=0.4), name
        if isinstance(part, nn.Linear) and part.bias is not None:
            assert not part.bias.any(), name
    assert seen > 15
    for norm in norms:
        assert not norm.to_weight.weight.any()
        assert bool((norm.to_weight.bias == 1).all())
