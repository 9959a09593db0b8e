"""Lip features to the token rate: values, row ends, lengths."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from metis_lightning.tokens.visual.encoder import double_rate, fit_frames


def features(frames: int) -> torch.Tensor:
    return torch.randn(1, frames, 3, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_interpolation_is_linear(frames: int) -> None:
    x = features(frames)
    expected = interpolate(x.transpose(1, 2), scale_factor=2, mode="linear", align_corners=False).transpose(1, 2)
    torch.testing.assert_close(double_rate(x), expected)


def test_padding_does_not_show_in_a_row() -> None:
    alone = double_rate(features(3))
    padded = torch.cat([features(3), torch.full((1, 4, 3), 99.0)], dim=1)
    together = double_rate(torch.cat([padded, features(7)]), torch.tensor([3, 7]))
    torch.testing.assert_close(together[:1, :6], alone)
    torch.testing.assert_close(together[1:], double_rate(features(7)))


def test_fit_frames_cuts_and_fills_with_zeros() -> None:
    x = features(4)
    assert torch.equal(fit_frames(x, 3), x[:, :3])
    longer = fit_frames(x, 6)
    assert torch.equal(longer[:, :4], x)
    assert longer[:, 4:].abs().sum() == 0
