from collections.abc import Callable

import numpy as np
import pytest

from metis_lightning.errors import UserError
from metis_lightning.metrics.optional import speechmos
from metis_lightning.metrics.optional.speechmos import PersonalizedDnsmosMetric, PlcMosMetric
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import TASKS

MakeItem = Callable[..., ScoringItem]


@pytest.fixture(scope="module")
def personalized() -> PersonalizedDnsmosMetric:
    return PersonalizedDnsmosMetric(SuiteOptions(), TASKS["tse"])


@pytest.fixture(scope="module")
def plcmos() -> PlcMosMetric:
    return PlcMosMetric(SuiteOptions(), TASKS["tts"])


def test_personalized_ratings_equal_the_package(
    personalized: PersonalizedDnsmosMetric, longer: np.ndarray, item_of: MakeItem
) -> None:
    pytest.importorskip("librosa")
    from speechmos import dnsmos as published

    for seconds in (3.0, 9.5, 12.3):
        part = np.clip(longer[: round(seconds * 16_000)], -1, 1)
        theirs = published.run(part, 16_000, model_type="dnsmos_personalized")
        ours = [value.value for value in personalized.score(item_of(part)).values()]
        assert ours == pytest.approx([theirs[f"{name}_mos"] for name in ("sig", "bak", "ovrl")], abs=1e-4)


def test_another_voice_is_background_to_the_personalized_ratings(
    personalized: PersonalizedDnsmosMetric, clean: np.ndarray, speech: Callable[[str], np.ndarray], item_of: MakeItem
) -> None:
    mixed = clean + np.resize(speech("am-michael_0285"), clean.shape)
    alone, together = (personalized.score(item_of(wave))["PDNSMOS_BAK"].value or 0.0 for wave in (clean, mixed))
    assert together < alone - 0.5


@pytest.mark.parametrize("samples", [1_281, 4_000, 33_333])
def test_plcmos_equals_the_package(plcmos: PlcMosMetric, longer: np.ndarray, item_of: MakeItem, samples: int) -> None:
    pytest.importorskip("librosa")
    from speechmos import plcmos as published

    part = np.clip(longer[5_000:][:samples], -1, 1)
    np.random.seed(0)
    theirs = published.run(part, 16_000)["plcmos"]
    assert plcmos.score(item_of(part))["PLCMOS"].value == pytest.approx(theirs, abs=1e-4)
    # No state is left: a second call gives the same number.
    assert plcmos.score(item_of(part))["PLCMOS"].value == pytest.approx(theirs, abs=1e-4)


def test_plcmos_needs_seven_frames(plcmos: PlcMosMetric, clean: np.ndarray, item_of: MakeItem) -> None:
    value = plcmos.score(item_of(clean[9_000:][:1_280]))["PLCMOS"]
    assert (value.value, value.error) == (None, "the signal is too short for plcmos: 0.1 s are needed")


def test_plcmos_hears_gaps(plcmos: PlcMosMetric, clean: np.ndarray, item_of: MakeItem) -> None:
    lost = clean.copy()
    for start in range(4_000, len(lost), 6_400):
        lost[start : start + 1_600] = 0
    whole, gaps = (plcmos.score(item_of(wave))["PLCMOS"].value or 0.0 for wave in (clean, lost))
    assert gaps < whole - 0.5


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speechmos, "_PLC", ("plcmos_models/plcmos_v2.onnx", "0" * 64))
    with pytest.raises(UserError, match=r"plcmos_v2\.onnx: missing, or not the file expected"):
        PlcMosMetric(SuiteOptions(), TASKS["tts"])
