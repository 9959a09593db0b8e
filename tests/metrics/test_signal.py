import numpy as np
import pytest
import torch

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.signal import (
    as_array,
    same_length,
    sounding_pair,
    to_metric_rate,
    with_sound,
)


def test_tensors_and_arrays_are_the_same() -> None:
    wave = torch.tensor([0.5, -0.25], dtype=torch.float64, requires_grad=True)
    assert as_array(wave).dtype == np.float32
    np.testing.assert_array_equal(as_array(wave), as_array(np.array([0.5, -0.25])))


@pytest.mark.parametrize(
    ("wave", "reason"),
    [([], "the prompt is empty"), ([0.0, np.nan], "not finite"), ([np.inf, 0.0], "not finite")],
)
def test_unusable_audio_is_refused_with_a_reason(wave: list[float], reason: str) -> None:
    with pytest.raises(MetricError, match=reason):
        as_array(np.array(wave), "prompt")


def test_a_batch_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        as_array(torch.zeros(1, 3))


def test_silence_is_refused_where_sound_is_needed() -> None:
    assert not as_array(np.zeros(3)).any()
    with pytest.raises(MetricError, match="the signal is silent"):
        with_sound(np.zeros(3))


def test_resampling_keeps_a_tone() -> None:
    time_24 = np.arange(24_000) / 24_000
    resampled = to_metric_rate(np.sin(2 * np.pi * 440 * time_24), 24_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(resampled) == 16_000
    np.testing.assert_allclose(resampled[500:-500], expected[500:-500], atol=1e-4)


def test_pairs_are_cropped_within_a_tenth_of_a_second_only() -> None:
    long, short = np.ones(17_600), np.ones(16_000)
    assert [len(wave) for wave in same_length(long, short)] == [16_000, 16_000]
    with pytest.raises(MetricError, match=r"differ in length by 0\.10 s"):
        same_length(short, np.ones(17_601))
    with pytest.raises(MetricError, match="16000 and 17600 samples"):
        sounding_pair(short, long)
