"""The decoding loop, on denoisers whose answer is known."""

from __future__ import annotations

import torch
from torch import Tensor

from metis_lightning.models.masking import mask_ratio
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import Sampling, gumbel, keep_likeliest, least_confident, mask_predict

LENGTH, VOCABULARY = 30, 50
CPU = torch.device("cpu")


def truth() -> Tensor:
    return torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def test_a_sure_denoiser_is_followed_and_masks_shrink_as_scheduled() -> None:
    seen: list[int] = []

    def denoise(tokens: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        seen.append(int(mask[0].sum()))
        assert (tokens[mask] == 0).all()
        return torch.nn.functional.one_hot(truth(), VOCABULARY) * 1e4

    settings = Sampling(num_steps=5)
    noise = gumbel(torch.Generator().manual_seed(0))
    assert torch.equal(mask_predict(denoise, (2, LENGTH), settings, noise, CPU), truth())
    expected = [LENGTH] + [int(mask_ratio(torch.tensor(1 - i / 5)) * LENGTH) for i in range(1, 5)]
    assert seen == expected


def test_seeds_decide_the_tokens() -> None:
    def denoise(tokens: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, VOCABULARY)

    def run(seed: int) -> Tensor:
        noise = gumbel(torch.Generator().manual_seed(seed))
        return mask_predict(denoise, (1, LENGTH), Sampling(num_steps=4), noise, CPU)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_keep_likeliest_keeps_ceil_of_two_percent() -> None:
    logits = torch.randn(1, 3, 120, generator=torch.Generator().manual_seed(0))
    kept = keep_likeliest(logits, 0.98)
    assert (kept > -torch.inf).sum(dim=-1).tolist() == [[3, 3, 3]]
    assert torch.equal(kept.argmax(dim=-1), logits.argmax(dim=-1))


def test_least_confident_takes_only_masked_positions() -> None:
    confidence = torch.tensor([[0.9, 0.1, 0.2, 0.05]])
    mask = torch.tensor([[True, True, True, False]])
    assert least_confident(confidence, mask, 2).tolist() == [[False, True, True, False]]


def test_gumbel_noise_has_its_mean_and_deviation() -> None:
    noise = gumbel(torch.Generator().manual_seed(0))(torch.empty(200_000))
    assert abs(noise.mean().item() - 0.5772) < 0.01
    assert abs(noise.std().item() - 1.2825) < 0.01


def test_guidance_is_row_by_row_and_none_at_equal_branches() -> None:
    a = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    b = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(guide(a, a, 2.5, 0.75), a)
    guided = guide(a, b, 2.5, 1.0)
    torch.testing.assert_close(guided.std(dim=(1, 2)), a.std(dim=(1, 2)))
    torch.testing.assert_close(guided[1:2], guide(a[1:2], b[1:2], 2.5, 1.0))
