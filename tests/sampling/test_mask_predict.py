"""The decoding loop, on denoisers whose answer is known."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from metis_lightning.models.masking import mask_ratio
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import (
    Noise,
    Sampling,
    State,
    gumbel,
    least_confident,
    likeliest,
    mask_predict,
    num_masked,
    schedule,
)

LENGTHS, VOCABULARY = (30, 7, 19), 50
CPU = torch.device("cpu")


def truth(lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    return torch.randint(VOCABULARY, (sum(lengths),), generator=torch.Generator().manual_seed(0))


def noises(*seeds: int) -> list[Noise]:
    return [gumbel(torch.Generator().manual_seed(seed)) for seed in seeds]


def test_a_sure_denoiser_is_followed_and_masks_shrink_as_scheduled_in_each_row() -> None:
    seen: list[dict[int, int]] = []

    def denoise(state: State, step: int) -> Tensor:
        assert step == len(seen)
        seen.append({row: len(frames) for row, frames in zip(state.rows, state.masked, strict=True)})
        assert int(state.mask.sum()) == sum(seen[-1].values())
        assert (state.tokens[state.mask] == 0).all()
        return torch.nn.functional.one_hot(truth()[state.mask], VOCABULARY) * 1e4

    found = mask_predict(denoise, LENGTHS, Sampling(num_steps=5), noises(0, 1, 2), CPU)
    assert [len(tokens) for tokens in found] == list(LENGTHS)
    assert torch.equal(torch.cat(found), truth())
    for row, length in enumerate(LENGTHS):
        counts = [length] + [int(mask_ratio(torch.tensor(1 - i / 5)) * length) for i in range(1, 5)]
        assert [step.get(row, 0) for step in seen] == counts


def test_a_row_that_is_done_is_left_in_peace() -> None:
    seen: list[tuple[int, ...]] = []

    def denoise(state: State, step: int) -> Tensor:
        seen.append(state.rows)
        return torch.zeros(int(state.mask.sum()), VOCABULARY)

    # Three frames: sin(π/2 · 1/5) · 3 is less than one, so the last step has nothing to do.
    mask_predict(denoise, (30, 3), Sampling(num_steps=5), noises(0, 1), CPU)
    assert seen == [(0, 1)] * 4 + [(0,)]


def test_seeds_decide_the_tokens_of_each_row_whatever_stands_beside_it() -> None:
    scores = torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(5))

    def run(lengths: tuple[int, ...], *seeds: int) -> list[Tensor]:
        def denoise(state: State, step: int) -> Tensor:
            return torch.cat([scores[frames] for frames in state.masked])

        return mask_predict(denoise, lengths, Sampling(num_steps=4), noises(*seeds), CPU)

    together = run((30, 12, 30), 1, 2, 3)
    alone = [run((length,), seed)[0] for length, seed in ((30, 1), (12, 2), (30, 3))]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert not torch.equal(together[0], together[2])


def test_the_schedule_runs_from_all_masked_to_none() -> None:
    assert schedule(4).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert [num_masked(30, step, 1) for step in (0, 1)] == [30, 0]


def test_likeliest_keeps_ceil_of_two_percent() -> None:
    logits = torch.randn(3, 120, generator=torch.Generator().manual_seed(0))
    values, tokens = likeliest(logits, 0.98)
    assert values.shape == tokens.shape == (3, 3)
    assert torch.equal(tokens[:, 0], logits.argmax(dim=-1))
    assert torch.equal(values, logits.gather(-1, tokens))


def test_least_confident_gives_frames_in_order() -> None:
    confidence = torch.tensor([0.9, 0.1, 0.05, 0.2])
    assert least_confident(confidence, torch.tensor([2, 3, 5, 8]), 3, 10).tolist() == [3, 5, 8]


def test_gumbel_noise_has_its_mean_and_deviation_and_is_indexed() -> None:
    everything = (torch.arange(200_000),)
    noise = noises(0)[0]((200_000,), everything)
    assert abs(noise.mean().item() - 0.5772) < 0.01
    assert abs(noise.std().item() - 1.2825) < 0.01
    some = torch.tensor([[5, 3], [0, 199_999]])
    assert torch.equal(noises(0)[0]((200_000,), (some,)), noise[some])


def test_guidance_is_row_by_row_and_none_at_equal_branches() -> None:
    a = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    b = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(guide(a, a, 2.5, 0.75), a)
    guided = guide(a, b, 2.5, 1.0)
    torch.testing.assert_close(guided.std(dim=(1, 2)), a.std(dim=(1, 2)))
    torch.testing.assert_close(guided[1:2], guide(a[1:2], b[1:2], 2.5, 1.0))


def frames_left(settings: Sampling, scores: Tensor) -> list[list[int]]:
    """Return the masked frames before each step of a decoding of one row by fixed scores (T, V)."""
    seen: list[list[int]] = []

    def denoise(state: State, step: int) -> Tensor:
        seen.append(state.masked[0].tolist())
        return scores[state.masked[0]]

    mask_predict(denoise, (len(scores),), settings, noises(0), CPU)
    return seen


def test_frames_that_stay_are_masked_again_only_where_that_is_asked_for() -> None:
    scores = torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(0))
    kept = frames_left(Sampling(num_steps=8), scores)
    assert all(set(after) < set(before) for before, after in pairwise(kept))
    again = frames_left(Sampling(num_steps=8, remasks=True), scores)
    assert [len(frames) for frames in again] == [len(frames) for frames in kept]
    assert not all(set(after) <= set(before) for before, after in pairwise(again))
