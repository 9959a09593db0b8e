"""Joints of chunks: exact where the renderings agree, without clicks where they do not, and in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from every_task import voice
from metis_lightning.sampling.long_audio import (
    FADE,
    LARGEST_SHIFT,
    MARGIN,
    Joiner,
    crossfade,
    find_joint,
    grouped,
    overlapping,
)

RATE = 24_000
OVERLAP = 2 * RATE
CHUNK = 10 * RATE


def rendered(wave: np.ndarray, start: int, seed: int) -> torch.Tensor:
    """What a generative model may make of a stretch of speech.

    The words and their times are those of the source; phases of the harmonics and noise are new, and pitch periods lie
    elsewhere by up to half of one.
    """
    generator = np.random.default_rng(seed)
    moved = np.roll(wave, generator.integers(-80, 80))[start : start + CHUNK]
    spectrum = np.fft.rfft(moved)
    # A smooth random phase: an all-pass filter of a few milliseconds.
    turns = np.interp(np.arange(len(spectrum)), *_bends(len(spectrum), generator))
    filtered = np.fft.irfft(spectrum * np.exp(1j * turns), len(moved))
    return torch.from_numpy(filtered + 0.001 * generator.standard_normal(len(moved))).float()


def _bends(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(0, count, 12), generator.uniform(-np.pi, np.pi, 12)


def clicks(wave: torch.Tensor, places: list[int]) -> tuple[float, float]:
    """Return how sharp the sharpest joint is against what the wave does elsewhere.

    Of windows as long as a fade: the largest jump between two samples, and the largest energy of 5 ms in the high
    frequencies; at the joint where it is largest, over the 99th percentile of windows without a joint.
    """
    samples = wave.double().numpy()
    jumps = np.abs(np.diff(samples))
    high = np.convolve(np.diff(samples, n=4) ** 2, np.ones(120), "same")  # rises by 24 dB an octave
    windows = range(FADE, len(samples) - 2 * FADE, FADE // 2)
    inside = [start for start in windows if all(abs(start + FADE // 2 - place) > FADE for place in places)]
    return tuple(
        float(
            max(values[place - FADE // 2 : place + FADE // 2].max() for place in places)
            / np.quantile([values[start : start + FADE].max() for start in inside], 0.99)
        )
        for values in (jumps, high)
    )


def joined_by(join: str, waves: list[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
    """Join chunks as the package does, or by cutting in the middle of the overlap."""
    if join == "cut":
        half = OVERLAP // 2
        parts = [wave[half if index else 0 : -half] for index, wave in enumerate(waves[:-1])] + [waves[-1][half:]]
        return torch.cat(parts), np.cumsum([len(part) for part in parts[:-1]]).tolist()
    joiner = Joiner(OVERLAP)
    parts = [joiner.add(wave) for wave in waves]
    parts.append(joiner.finish(sum(map(len, waves)) - OVERLAP * (len(waves) - 1)))
    return torch.cat(parts), joiner.joints


@pytest.fixture(scope="module", params=[True, False], ids=["pauses", "no pauses"])
def renderings(request: pytest.FixtureRequest) -> list[torch.Tensor]:
    wave = voice(10 + 9 * 8, RATE, pauses=request.param)
    return [rendered(wave, start, seed) for seed, start in enumerate(range(0, 10 * 8 * RATE, 8 * RATE))]


def test_joints_are_inaudible_by_jumps_and_high_frequencies(renderings: list[torch.Tensor]) -> None:
    wave, joints = joined_by("package", renderings)
    assert len(joints) == 9
    jump, energy = clicks(wave, joints)
    assert jump < 1.0 and energy < 1.0
    cut, places = joined_by("cut", renderings)
    assert clicks(cut, places)[1] > 2.0, "the measure must find a joint that clicks"
    assert wave.shape == cut.shape


def test_the_level_holds_at_joints(renderings: list[torch.Tensor]) -> None:
    """A dip or a bump would be heard too: the fade's level lies between those around it."""
    wave, joints = joined_by("package", renderings)
    for place in joints:
        levels = [
            float(wave[at - FADE // 2 : at + FADE // 2].square().mean())
            for at in range(place - 3 * FADE, place + 4 * FADE, FADE)
        ]
        assert min(levels[:3] + levels[4:]) / 2 < levels[3] < max(levels) * 2


def test_every_chunk_stays_in_time(renderings: list[torch.Tensor]) -> None:
    """Moving a chunk for a joint does not add up: everywhere the wave is within the largest shift of its chunk's."""
    wave, joints = joined_by("package", renderings)
    for number, chunk in enumerate(renderings):
        start = number * (CHUNK - OVERLAP)
        middle = slice(4 * RATE, 6 * RATE)
        part = chunk[middle]
        found = wave[start + middle.start - LARGEST_SHIFT : start + middle.stop + LARGEST_SHIFT]
        matches = found.unfold(0, len(part), 1)
        assert float((matches - part).abs().amax(dim=1).min()) == 0.0


def test_equal_renderings_join_to_the_wave_itself() -> None:
    wave = torch.from_numpy(voice(26, RATE)).float()
    waves = [wave[start : start + CHUNK] for start in range(0, 17 * RATE, 8 * RATE)]
    joined, joints = joined_by("package", waves)
    assert torch.allclose(joined, wave, atol=1e-6)
    assert all(MARGIN <= place - 8 * RATE * (index + 1) <= OVERLAP - MARGIN for index, place in enumerate(joints))


def test_a_pause_is_preferred() -> None:
    loud = [torch.randn(OVERLAP, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    for wave in loud:
        wave[20_000:24_000] *= 0.01
    joint = find_joint(*loud)
    assert 20_000 - FADE // 4 <= joint.start <= 24_000 - FADE + FADE // 4


def test_a_moved_rendering_is_laid_where_it_fits() -> None:
    tone = torch.from_numpy(voice(3, RATE, pauses=False)).float()
    joint = find_joint(tone[:OVERLAP], torch.roll(tone, 37)[:OVERLAP])
    assert joint.shift == 37


def test_power_is_kept_while_fading() -> None:
    generator = torch.Generator().manual_seed(0)
    for alike in (1.0, 0.5, 0.0):
        powers = []
        for _ in range(400):
            a, other = torch.randn(2, FADE, generator=generator)
            faded = crossfade(a, alike * a + (1 - alike**2) ** 0.5 * other)
            powers.append(faded.square())
        assert torch.stack(powers).mean(dim=0).numpy() == pytest.approx(1.0, abs=0.35)
        assert float(torch.stack(powers).mean()) == pytest.approx(1.0, abs=0.02)


def test_silence_fades() -> None:
    assert torch.equal(crossfade(torch.zeros(FADE), torch.zeros(FADE)), torch.zeros(FADE))


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 180, 181, 1000])
@pytest.mark.parametrize("block", [7, 50, 1000])
def test_chunks_cover_a_wave_with_their_overlaps(samples: int, block: int) -> None:
    wave = torch.arange(samples)
    chunks = list(overlapping(wave.split(block), longest=100, overlap=20))
    assert [len(chunk) for chunk in chunks[:-1]] == [80] * (len(chunks) - 1)
    assert len(chunks) == 1 or 40 < len(chunks[-1]) <= 100
    rebuilt = torch.cat([chunks[0], *(chunk[20:] for chunk in chunks[1:])])
    assert torch.equal(rebuilt, wave)
    assert all(torch.equal(a[-20:], b[:20]) for a, b in zip(chunks, chunks[1:], strict=False))
    assert [len(group) for group in grouped(chunks, 3)][:-1] == [3] * ((len(chunks) - 1) // 3)
