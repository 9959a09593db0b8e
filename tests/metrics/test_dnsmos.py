import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from metis_lightning.errors import UserError
from metis_lightning.metrics import dnsmos
from metis_lightning.metrics.dnsmos import (
    DnsmosMetric,
    DnsmosScores,
    model_files,
    session,
    windows,
)
from metis_lightning.metrics.metric import MetricError

SHORT = "if-sara_0069"


@pytest.fixture(scope="module")
def rate() -> DnsmosMetric:
    return DnsmosMetric()


@pytest.mark.parametrize("name", [SHORT, "allison_cannot-complete-as-dialed", "noise"])
def test_equals_the_package(
    rate: DnsmosMetric, expected: dict[str, Any], expected_waves: dict[str, np.ndarray], name: str
) -> None:
    assert rate.rate(expected_waves[name]) == pytest.approx(expected[name]["dnsmos"], abs=1e-3)


def test_the_package_is_not_imported() -> None:
    code = "from metis_lightning.metrics.dnsmos import DnsmosMetric; DnsmosMetric()"
    code += "; import sys; print('speechmos' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_short_audio_is_doubled_until_it_fits() -> None:
    wave = np.arange(40_000, dtype=np.float32)  # 2.5 s, 5 s, 10 s
    (only,) = windows(wave).values()
    np.testing.assert_array_equal(only, np.tile(wave, 4)[:144_160])


def test_windows_start_each_second_and_the_tail_is_left_out() -> None:
    wave = np.arange(12 * 16_000 + 15_999, dtype=np.float32)
    assert [int(window[0]) for window in windows(wave).values()] == [0, 16_000, 32_000]


def test_windows_that_the_published_rounding_skips_are_skipped() -> None:
    # From hop 7 to 23, int((hop + 9.01) * 16000) is one sample less than hop * 16000 + int(9.01 * 16000).
    starts = [int(window[0]) // 16_000 for window in windows(np.arange(18 * 16_000, dtype=np.float32)).values()]
    assert starts == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("samples", [640, 32_000, 80_000, 80_007, 144_159, 144_160, 176_000])
def test_new_frames_alone_give_the_ratings_of_the_whole_network(
    rate: DnsmosMetric, speech: Callable[[str], np.ndarray], samples: int
) -> None:
    wave = np.concatenate([speech(item) for item in ("am-michael_0285", SHORT, "allison_cannot-complete-as-dialed")])
    wave = np.concatenate([wave, wave])[:samples]
    whole = session(model_files()["dnsmos_p835"], 1)
    raw = np.concatenate([whole.run(None, {"input_1": window[None]})[0] for window in windows(wave).values()])
    np.testing.assert_allclose(rate._p835(windows(wave)), raw, atol=1e-5)


def test_equals_speechmos_on_longer_speech(rate: DnsmosMetric, speech: Callable[[str], np.ndarray]) -> None:
    pytest.importorskip("librosa")
    from speechmos import dnsmos as published

    wave = np.concatenate(
        [speech(item) for item in ("am-michael_0285", SHORT, "allison_cannot-complete-as-dialed")] * 2
    )
    for seconds in (5.0, 9.01, 10.5, 12.3):
        part = np.clip(wave[: round(seconds * 16_000)], -1, 1)
        theirs = published.run(part, 16_000)
        expected = [theirs[f"{name}_mos"] for name in ("sig", "bak", "ovrl", "p808")]
        assert list(rate.rate(part)) == pytest.approx(expected, abs=1e-4)


def test_noise_is_rated_lower(rate: DnsmosMetric, expected: dict[str, Any], noisy: np.ndarray) -> None:
    worse, better = rate.rate(noisy), DnsmosScores(*expected[SHORT]["dnsmos"])
    assert worse.bak < better.bak - 1.0
    assert worse.ovrl < better.ovrl - 0.5


def test_audio_that_is_not_finite_has_no_rating(rate: DnsmosMetric) -> None:
    with pytest.raises(MetricError, match="not finite"):
        rate.rate(np.full(1000, np.nan))


def test_another_model_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsmos, "_P835", ("sig_bak_ovr.onnx", "0" * 64))
    with pytest.raises(UserError, match=r"sig_bak_ovr\.onnx: missing, or not the file expected.*speechmos==0\.0\.1\.1"):
        DnsmosMetric()
