"""Masks: never on padding or prompt, at least one a row, and as often as the schedule says."""

from __future__ import annotations

import math

import pytest
import torch

from metis_lightning.models.masking import PromptRule, draw_masking, mask_ratio

FRAMES = torch.tensor([100, 60, 7, 1])


def draw(rule: PromptRule = PromptRule(), seed: int = 0, **options: torch.Tensor):  # noqa: B008  frozen
    return draw_masking(FRAMES, 100, rule, torch.Generator().manual_seed(seed), **options)


def test_mask_ratio_is_a_quarter_sine() -> None:
    expected = [math.sin(math.pi / 2 * t) for t in (0.0, 0.25, 1.0)]
    torch.testing.assert_close(mask_ratio(torch.tensor([0.0, 0.25, 1.0])), torch.tensor(expected))


@pytest.mark.parametrize("seed", range(20))
def test_padding_and_prompt_are_never_masked_and_every_row_has_a_mask(seed: int) -> None:
    masking = draw(seed=seed)
    padding = torch.arange(100) >= FRAMES[:, None]
    assert not (masking.mask & padding).any()
    assert not (masking.mask & masking.prompt).any()
    assert masking.mask.any(dim=1).all()


def test_same_generator_same_masks() -> None:
    assert torch.equal(draw(seed=3).mask, draw(seed=3).mask)
    assert not torch.equal(draw(seed=3).mask, draw(seed=4).mask)


def test_given_prompts_are_kept_or_dropped_row_by_row() -> None:
    prompts = torch.tensor([40, 20, 3, 0])
    kept = torch.stack([draw(seed=seed, prompt_frames=prompts).prompt.sum(dim=1) for seed in range(400)])
    for row in (0, 1, 2):
        assert set(kept[:, row].tolist()) == {0, int(prompts[row])}
    share_dropped = (kept[:, 0] == 0).float().mean()
    assert 0.10 < share_dropped < 0.20
    # One coin a sample: some batches must have both.
    assert ((kept[:, 0] == 0) != (kept[:, 1] == 0)).any()


def test_a_prompt_as_long_as_its_row_leaves_a_frame_to_mask() -> None:
    masking = draw(PromptRule(drop=0.0), prompt_frames=FRAMES)
    assert masking.prompt.sum(dim=1).tolist() == (FRAMES - 1).tolist()
    assert masking.mask.sum(dim=1).tolist() == [1, 1, 1, 1]


def test_prompt_lengths_stay_in_the_rule() -> None:
    lengths = torch.stack([draw(PromptRule(drop=0.0), seed).prompt.sum(dim=1) for seed in range(300)])
    assert lengths[:, 0].min() >= 5
    assert lengths[:, 0].max() < 40
    assert lengths[:, 0].float().mean() == pytest.approx(22, abs=2)


def test_mask_share_follows_the_schedule_with_its_floor() -> None:
    rule = PromptRule(drop=1.0)
    frames = torch.full((4000,), 50)
    masking = draw_masking(frames, 50, rule, torch.Generator().manual_seed(0))
    share = masking.mask.float().mean(dim=1)
    low = masking.t < 0.05
    assert share[low].mean() == pytest.approx(0.2, abs=0.02)
    high = masking.t > 0.5
    torch.testing.assert_close(share[high].mean(), mask_ratio(masking.t[high]).mean(), rtol=0, atol=0.01)
