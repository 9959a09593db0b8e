"""PESQ, STOI and SI-SDR beside the packages that define them."""

from collections.abc import Callable

import fast_bss_eval
import numpy as np
import pesq as pesq_package
import pystoi
import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from metis_lightning.metrics.intrusive import pesq, si_sdr, stoi
from metis_lightning.metrics.metric import MetricError

Pair = Callable[[np.ndarray, np.ndarray], float]


def test_pesq_equals_the_package(clean: np.ndarray, noisy: np.ndarray) -> None:
    assert pesq(noisy, clean) == pesq_package.pesq(16_000, clean, noisy, "wb")
    assert 1.0 < pesq(noisy, clean) < 3.0
    assert pesq(clean, clean) == pytest.approx(4.644, abs=1e-3)


def test_pesq_needs_a_quarter_of_a_second(clean: np.ndarray) -> None:
    with pytest.raises(MetricError, match="PESQ: .*1/4 of a second"):
        pesq(clean[:3000], clean[:3000])


@pytest.mark.parametrize("item", ["if-sara_0069", "allison_cannot-complete-as-dialed", "am-michael_0285"])
@pytest.mark.parametrize("level", [0.003, 0.03, 0.3])
def test_stoi_and_estoi_equal_the_package(speech: Callable[[str], np.ndarray], item: str, level: float) -> None:
    clean = speech(item)
    worse = clean + level * np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
    assert stoi(worse, clean) == pytest.approx(pystoi.stoi(clean, worse, 16_000), abs=1e-9)
    assert stoi(worse, clean, True) == pytest.approx(pystoi.stoi(clean, worse, 16_000, extended=True), abs=1e-9)


def test_estoi_is_the_same_each_time_and_leaves_numpys_generator_alone(clean: np.ndarray) -> None:
    # Digital silence in the processed signal: bands without energy, where only the noise decides.
    gap = clean.copy()
    gap[8000:24_000] = 0.0
    np.random.seed(7)
    state = np.random.get_state()[1].tolist()
    assert stoi(gap, clean, True) == stoi(gap, clean, True) == pytest.approx(0.5, abs=0.3)
    assert np.random.get_state()[1].tolist() == state


def test_narrow_band_pesq_equals_the_package(clean: np.ndarray, noisy: np.ndarray) -> None:
    assert pesq(noisy, clean, "nb") == pesq_package.pesq(16_000, clean, noisy, "nb")
    assert pesq(clean, clean, "nb") == pytest.approx(4.549, abs=1e-3)


def test_si_sdr_equals_fast_bss_eval(clean: np.ndarray, noisy: np.ndarray) -> None:
    centred = [wave.astype(np.float64) - wave.mean(dtype=np.float64) for wave in (clean, noisy)]
    theirs = fast_bss_eval.si_sdr(centred[0][None], centred[1][None], zero_mean=False)
    assert si_sdr(noisy, clean) == pytest.approx(float(np.squeeze(theirs)), abs=1e-6)


def test_stoi_is_high_for_little_noise(clean: np.ndarray, noisy: np.ndarray) -> None:
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
        ([0.3, 0.3], [1.0, -1.0], "the signal is constant"),
        ([1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0], "minus infinity"),
        ([1.0, 2.0], [1.0, 1.0], "the reference is constant"),
    ],
)
def test_si_sdr_that_is_not_finite_has_a_reason(prediction: list[float], reference: list[float], reason: str) -> None:
    with pytest.raises(MetricError, match=reason):
        si_sdr(np.array(prediction), np.array(reference))


@pytest.mark.parametrize("score", [pesq, stoi])
@pytest.mark.parametrize("samples", [1, 640, 2000])
def test_clips_of_milliseconds_have_no_value(score: Pair, clean: np.ndarray, samples: int) -> None:
    part = clean[20_000 : 20_000 + samples]
    with pytest.raises(MetricError, match="PESQ|STOI"):
        score(part, part)


@pytest.mark.parametrize("score", [pesq, stoi, si_sdr])
def test_silence_and_other_lengths_have_no_value(score: Pair, clean: np.ndarray) -> None:
    with pytest.raises(MetricError, match="the signal is silent"):
        score(np.zeros_like(clean), clean)
    with pytest.raises(MetricError, match="the reference is silent"):
        score(clean, np.zeros_like(clean))
    with pytest.raises(MetricError, match="samples"):
        score(clean[:-1], clean)
