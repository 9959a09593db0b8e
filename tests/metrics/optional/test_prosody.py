from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import soxr

from metis_lightning.metrics.optional.prosody import (
    F0CorrelationMetric,
    SpeakingRateMetric,
    active_seconds,
    cepstra,
    pitch,
    pitch_correlation,
    warping_path,
)
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import TASKS

MakeItem = Callable[..., ScoringItem]
if find_spec("pyworld") is None:
    pytest.skip("pyworld is not installed", allow_module_level=True)


def sung(melody: np.ndarray, seconds: float = 1.5) -> np.ndarray:
    """Return a buzz whose pitch in Hz follows a melody, (S,) at 16 kHz."""
    hertz = np.interp(np.linspace(0, 1, round(seconds * 16_000)), np.linspace(0, 1, len(melody)), melody)
    phase = 2 * np.pi * np.cumsum(hertz) / 16_000
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 9))).astype(np.float32)


def test_pitch_of_a_glide_is_what_was_sung() -> None:
    found = pitch(sung(np.array([120.0, 240.0])))
    voiced = found > 0
    wanted = np.interp(np.arange(len(found)) / 50, [0, 1.5], [120.0, 240.0])
    assert voiced[5:-5].mean() > 0.95
    assert np.abs(found - wanted)[voiced][5:-5].max() < 4.0


def test_pitch_equals_another_tracker_on_speech(speech: Callable[[str], np.ndarray]) -> None:
    librosa = pytest.importorskip("librosa")
    wave = speech("if-sara_0069")
    theirs, voiced, _ = librosa.pyin(wave, fmin=60, fmax=600, sr=16_000, hop_length=320, frame_length=1024)
    ours = pitch(wave)[: len(theirs)]
    both = voiced[: len(ours)] & (ours > 0)
    cents = 1200 * np.abs(np.log2(ours[both] / theirs[: len(ours)][both]))
    assert both.sum() > 40
    # The trackers differ by a third of a semitone where a voice begins and ends.
    assert np.median(cents) < 35


def test_the_path_costs_what_another_implementation_finds(speech: Callable[[str], np.ndarray]) -> None:
    librosa = pytest.importorskip("librosa")
    a, b = cepstra(speech("if-sara_0069")), cepstra(speech("am-michael_0285"))
    total, _ = librosa.sequence.dtw(a.T, b.T, metric="euclidean")
    rows, columns = warping_path(a, b)
    assert np.linalg.norm(a[rows] - b[columns], axis=1).sum() == pytest.approx(total[-1, -1], rel=1e-6)
    steps = np.stack([np.diff(rows), np.diff(columns)])
    assert set(map(tuple, steps.T)) <= {(0, 1), (1, 0), (1, 1)}


def test_the_correlation_of_a_melody(item_of: MakeItem) -> None:
    up, down = np.array([120.0, 180.0, 140.0, 200.0]), np.array([200.0, 140.0, 180.0, 120.0])
    assert pitch_correlation(sung(1.5 * up), sung(up)) > 0.98
    assert pitch_correlation(sung(down), sung(up)) < 0


def test_speech_beside_itself_in_another_voice_and_at_another_pace(
    speech: Callable[[str], np.ndarray], item_of: MakeItem
) -> None:
    wave = speech("if-sara_0069")
    # Played at another speed, pitch and pace change together.
    slow = soxr.resample(wave, 16_000, 19_200)
    f0, rate = F0CorrelationMetric(SuiteOptions(), TASKS["tts"]), SpeakingRateMetric(SuiteOptions(), TASKS["tts"])
    item = item_of(slow, reference=wave)
    assert (f0.score(item)["F0_CORR"].value or 0) > 0.8
    assert rate.score(item)["RATE_RATIO"].value == pytest.approx(1.2, abs=0.03)
    other = item_of(speech("am-michael_0285"), reference=wave)
    assert abs(f0.score(other)["F0_CORR"].value or 0) < 0.6
    same = item_of(wave, reference=wave)
    assert (f0.score(same)["F0_CORR"].value, rate.score(same)["RATE_RATIO"].value) == (pytest.approx(1.0), 1.0)


def test_what_it_is_compared_with_depends_on_the_task(item_of: MakeItem, speech: Callable[[str], np.ndarray]) -> None:
    wave, other = speech("if-sara_0069"), speech("am-michael_0285")
    item = item_of(wave, source=wave, reference=other)
    ratios = {
        task: SpeakingRateMetric(SuiteOptions(), TASKS[task]).score(item)["RATE_RATIO"].value for task in ("vc", "tts")
    }
    assert ratios["vc"] == 1.0 < 1.1 < (ratios["tts"] or 0)
    only = item_of(wave, source=wave)
    assert SpeakingRateMetric(SuiteOptions(), TASKS["tts"]).score(only)["RATE_RATIO"].value == 1.0


def test_active_seconds_leave_pauses_out(clean: np.ndarray) -> None:
    pause = np.zeros(16_000, np.float32)
    assert active_seconds(np.concatenate([pause, clean, pause])) == pytest.approx(active_seconds(clean), abs=0.03)


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (np.zeros(16_000), "the signal is silent"),
        (np.full(16_000, np.nan), "the signal has samples that are not finite"),
        (0.1 * np.random.default_rng(0).standard_normal(16_000), "fewer than 10 frames are voiced in both"),
        (np.full(640, 0.1), "fewer than 10 frames are voiced in both"),
    ],
    ids=["silence", "nan", "hiss", "40 ms of DC"],
)
def test_failures_have_reasons(wave: np.ndarray, reason: str, clean: np.ndarray, item_of: MakeItem) -> None:
    value = F0CorrelationMetric(SuiteOptions(), TASKS["tts"]).score(item_of(wave, reference=clean))["F0_CORR"]
    assert (value.value, value.error) == (None, reason)
