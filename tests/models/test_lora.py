"""LoRA: B starts at zero, W + BA is what it computes, and it is wrapped once."""

from __future__ import annotations

import pytest
import torch

from metis_lightning.models.lora import add_lora, lora_disabled
from metis_lightning.models.stage1 import GatedAdapter, Stage1, Stage1Config

CONFIG = Stage1Config(hidden_size=16, num_layers=2, num_heads=2, codebook_size=32)
TOKENS = torch.arange(10)[None]
MASK, T = TOKENS % 2 == 0, torch.tensor([0.5])


def make() -> Stage1:
    torch.manual_seed(0)
    return Stage1(CONFIG).eval()


@torch.no_grad()
def test_fresh_lora_changes_nothing_and_disabling_gives_the_base_back() -> None:
    model = make()
    base = model(TOKENS, MASK, T)
    add_lora(model, rank=4)
    model.eval()
    torch.testing.assert_close(model(TOKENS, MASK, T), base, rtol=0, atol=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert (model(TOKENS, MASK, T) - base).abs().max() > 1e-2
    with lora_disabled(model):
        torch.testing.assert_close(model(TOKENS, MASK, T), base, rtol=0, atol=0)
    assert (model(TOKENS, MASK, T) - base).abs().max() > 1e-2


@torch.no_grad()
def test_a_wrapped_map_is_w_plus_two_ba() -> None:
    model = make()
    add_lora(model, rank=4)
    model.eval()
    layer = model.diff_estimator.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 16)
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer(x), x @ (layer.base_layer.weight + 2 * delta).T)


def test_wrapping_twice_is_refused() -> None:
    model = make()
    add_lora(model, rank=4)
    with pytest.raises(ValueError, match="already"):
        add_lora(model, rank=4)


def test_the_published_count_of_lora_weights() -> None:
    """565,248 · r at the published sizes, counted on the meta device."""
    with torch.device("meta"):
        model = Stage1(Stage1Config())
        add_lora(model, rank=4)
    assert sum(value.numel() for key, value in model.state_dict().items() if "lora_" in key) == 565_248 * 4
    assert sum(parameter.numel() for parameter in GatedAdapter(1024, 1536).parameters()) == pytest.approx(
        15.74e6, rel=1e-3
    )
