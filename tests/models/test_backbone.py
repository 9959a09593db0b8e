"""The backbone: padding changes nothing, and a row does not see its neighbours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metis_lightning.models.backbone import Attention, Backbone
from metis_lightning.models.stage1 import Stage1, Stage1Config

CONFIG = Stage1Config(hidden_size=16, num_layers=2, num_heads=2, codebook_size=32, use_phone_cond=True)


@pytest.fixture
def model() -> Stage1:
    torch.manual_seed(0)
    stage1 = Stage1(CONFIG).eval()
    for parameter in stage1.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return stage1


@torch.no_grad()
def test_a_row_of_a_padded_batch_equals_the_row_alone(model: Stage1) -> None:
    tokens = torch.randint(32, (3, 12), generator=torch.Generator().manual_seed(1))
    mask, t = tokens % 3 == 0, torch.tensor([0.2, 0.5, 1.0])
    frames = torch.tensor([12, 7, 9])
    valid = torch.arange(12) < frames[:, None]
    together = model(tokens, mask, t, valid)
    for row, count in enumerate(frames.tolist()):
        alone = model(tokens[row : row + 1, :count], mask[row : row + 1, :count], t[row : row + 1])
        torch.testing.assert_close(together[row, :count], alone[0], rtol=0, atol=1e-5 * float(together.abs().max()))


@torch.no_grad()
def test_padding_phones_change_nothing_only_at_the_end_of_the_phones(model: Stage1) -> None:
    tokens, t = torch.arange(8)[None], torch.tensor([0.7])
    mask = tokens > 3
    frames = torch.ones(1, 8)
    phones = torch.tensor([[5, 6, 7]])
    with_phones = model(tokens, mask, t, frames, phones=phones)
    assert (with_phones - model(tokens, mask, t, frames)).abs().max() > 1e-3
    swapped = model(tokens, mask, t, frames, phones=torch.tensor([[7, 6, 5]]))
    assert (with_phones - swapped).abs().max() > 1e-3


@torch.no_grad()
def test_spread_phones_stand_at_the_frames_where_they_are_spoken(model: Stage1) -> None:
    model.add_phones(spread=True)
    phones = torch.tensor([[-1, -1, 5, 6], [7, 8, 9, 10], [-1, -1, -1, -1]])
    spread = model.spread_phones(phones, torch.tensor([6, 3, 5]), 6)
    five, six, seven, eight, nine, ten = model.embed_phones(torch.arange(5, 11))
    assert torch.equal(spread[0], torch.stack([five] * 3 + [six] * 3))
    # Four phones in three frames: one of them has none.
    assert torch.equal(spread[1, :3], torch.stack([seven, nine, ten]))
    assert not spread[2].any()
    assert eight.any()


@torch.no_grad()
def test_a_row_with_spread_phones_is_what_it_is_alone(model: Stage1) -> None:
    model.add_phones(spread=True)
    tokens = torch.arange(16).view(2, 8)
    mask, t, phones = tokens % 3 == 0, torch.tensor([0.2, 0.7]), torch.tensor([[5, 6, 7], [-1, 8, 9]])
    valid = torch.arange(8) < torch.tensor([8, 5])[:, None]
    together = model(tokens, mask, t, valid, phones=phones)
    alone = model(tokens[1:, :5], mask[1:, :5], t[1:], phones=phones[1:, 1:])
    torch.testing.assert_close(together[1, :5], alone[0])
    assert (alone - model(tokens[1:, :5], mask[1:, :5], t[1:])).abs().max() > 1e-3
    # A row without phones is the model that reads none.
    none = model(tokens, mask, t, valid, phones=torch.full((2, 1), -1))
    torch.testing.assert_close(none, model(tokens, mask, t, valid))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads"):
        Attention(16, 3)


def test_the_step_changes_the_output() -> None:
    torch.manual_seed(0)
    backbone = Backbone(16, 1, 2, cond_mlp=False)
    torch.nn.init.normal_(backbone.norm.to_weight.weight)
    x = torch.randn(1, 4, 16)
    early, late = backbone(x, torch.tensor([0.1])), backbone(x, torch.tensor([0.9]))
    assert (early - late).abs().max() > 1e-3


def test_recomputed_activations_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    backbone, x, t = Backbone(16, 2, 2, cond_mlp=False), torch.randn(2, 6, 16), torch.tensor([0.3, 0.8])

    def gradients() -> list[torch.Tensor]:
        backbone.zero_grad()
        backbone(x, t).square().sum().backward()
        return [parameter.grad.clone() for parameter in backbone.parameters()]

    kept = gradients()
    backbone.checkpoint_activations = True
    assert all(torch.equal(first, second) for first, second in zip(kept, gradients(), strict=True))
    assert any(gradient.abs().sum() > 0 for gradient in kept)


def test_mixed_precision_attends_and_rotates_in_its_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, t = Backbone(16, 2, 2, cond_mlp=False), torch.randn(2, 9, 16), torch.tensor([0.3, 0.7])
    exact = model(x, t)
    seen: set[torch.dtype] = set()
    attend = F.scaled_dot_product_attention

    def spied(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.update(each.dtype for each in (q, k, v))
        return attend(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x, t)
    assert seen == {torch.bfloat16}
    assert (mixed - exact).norm() / exact.norm() < 0.02
    seen.clear()
    assert torch.equal(model(x, t), exact)
    assert seen == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        whole = torch.compile(model, backend="eager", fullgraph=True)(x, t)
    assert torch.equal(whole, mixed)
