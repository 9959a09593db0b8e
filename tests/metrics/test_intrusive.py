"""PESQ, STOI and SI-SDR beside the packages that define them."""

from collections.abc import Callable

import numpy as np
import pesq as pesq_package
import pystoi
import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.pesq import pesq
from metis_lightning.metrics.si_sdr import si_sdr
from metis_lightning.metrics.stoi import stoi

Pair = Callable[[np.ndarray, np.ndarray], float]


def test_pesq_equals_the_package(clean: np.ndarray, noisy: np.ndarray) -> None:
    assert pesq(noisy, clean) == pesq_package.pesq(16_000, clean, noisy, "wb")
    assert 1.0 < pesq(noisy, clean) < 3.0
    assert pesq(clean, clean) == pytest.approx(4.644, abs=1e-3)


def test_pesq_needs_a_quarter_of_a_second(clean: np.ndarray) -> None:
    with pytest.raises(MetricError, match="PESQ: .*1/4 of a second"):
        pesq(clean[:3000], clean[:3000])


def test_stoi_equals_the_package(clean: np.ndarray, noisy: np.ndarray) -> None:
    assert stoi(noisy, clean) == pystoi.stoi(clean, noisy, 16_000)
    assert 0.6 < stoi(noisy, clean) < 0.999
    assert stoi(clean, clean) == pytest.approx(1.0, abs=1e-6)


def test_stoi_of_too_little_speech_is_no_number(clean: np.ndarray) -> None:
    with pytest.raises(MetricError, match="STOI: Not enough STFT frames"):
        stoi(clean[20_000:24_000], clean[20_000:24_000])


def test_si_sdr_equals_torchmetrics(clean: np.ndarray, noisy: np.ndarray) -> None:
    theirs = scale_invariant_signal_distortion_ratio(
        torch.from_numpy(noisy).double(), torch.from_numpy(clean).double(), zero_mean=True
    )
    assert si_sdr(noisy, clean) == pytest.approx(float(theirs), abs=1e-9)


def test_si_sdr_ignores_scale_and_offset(clean: np.ndarray, noisy: np.ndarray) -> None:
    assert si_sdr(0.1 * noisy + 0.2, clean) == pytest.approx(si_sdr(noisy, clean), abs=1e-3)


def test_si_sdr_of_a_known_mixture() -> None:
    time = np.arange(1600) / 1600
    target, other = np.sin(2 * np.pi * 10 * time), np.sin(2 * np.pi * 20 * time)
    assert si_sdr(target + 0.1 * other, target) == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize(
    ("prediction", "reference", "reason"),
    [
        ([1.0, -1.0], [1.0, -1.0], "infinite"),
        ([1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0], "minus infinity"),
        ([1.0, 2.0], [1.0, 1.0], "the reference is constant"),
    ],
)
def test_si_sdr_that_is_not_finite_has_a_reason(prediction: list[float], reference: list[float], reason: str) -> None:
    with pytest.raises(MetricError, match=reason):
        si_sdr(np.array(prediction), np.array(reference))


@pytest.mark.parametrize("score", [pesq, stoi, si_sdr])
def test_silence_and_other_lengths_have_no_value(score: Pair, clean: np.ndarray) -> None:
    with pytest.raises(MetricError, match="the signal is silent"):
        score(np.zeros_like(clean), clean)
    with pytest.raises(MetricError, match="the reference is silent"):
        score(clean, np.zeros_like(clean))
    with pytest.raises(MetricError, match="samples"):
        score(clean[:-1], clean)
