from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.metrics.levels import relative_level
from metis_lightning.metrics.metric import MetricError, MetricValue, OptionalMetric
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.metrics.suite import Suite, metric_classes

OWN = """
import numpy as np
from metis_lightning.metrics.metric import Column, MetricError, UtteranceMetric, measure
from metis_lightning.metrics.requested import metric


@metric("PEAK_GAP", unit="dB", higher_is_better=False)
def peak_gap(generated, reference, text="nothing"):
    if not generated.any():
        raise MetricError("the signal is silent")
    return 20 * np.log10(abs(generated).max() / abs(reference).max()) + (text == "nothing")


@metric("BROKEN", higher_is_better=True)
def broken(generated):
    return float("nan")


@metric("DNSMOS_OVRL", higher_is_better=True)
def twin(generated):
    return 1.0


def unmarked(generated):
    return 1.0


@metric("ODD", higher_is_better=True)
def odd(generated, weather):
    return 1.0


class Whole(UtteranceMetric):
    columns = (Column("WHOLE", "WHOLE"),)

    def score(self, item):
        return measure(self.columns, lambda: 1.0)
"""

WITHOUT = SuiteOptions(task="se", asr=(), speakers=())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of somebody else's metrics."""
    (tmp_path / "somebodys_metrics.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "somebodys_metrics"


def options(*metrics: str) -> SuiteOptions:
    return SuiteOptions(task="se", asr=(), speakers=(), metrics=metrics)


def item(wave: np.ndarray, reference: np.ndarray | None = None, **fields: object) -> ScoringItem:
    given = None if reference is None else torch.from_numpy(reference)
    return ScoringItem("a", torch.from_numpy(wave), 16_000, reference=given, **fields)  # type: ignore[arg-type]


def test_a_function_of_ones_own_is_a_column(own: str, clean: np.ndarray) -> None:
    suite = Suite(options(f"{own}:peak_gap", f"{own}:broken", f"{own}:Whole"))
    assert suite.columns["PEAK_GAP"].title == "PEAK GAP dB ↓"
    values = suite.score(item(0.5 * clean, clean, text="words"))
    assert list(values)[-3:] == ["PEAK_GAP", "BROKEN", "WHOLE"]
    assert values["PEAK_GAP"].value == pytest.approx(-6.0206, abs=1e-3)
    assert values["BROKEN"] == MetricValue(None, "BROKEN is nan")
    assert values["WHOLE"].value == 1.0
    # What has a default may be missing; what has none is a reason.
    assert suite.score(item(clean, clean))["PEAK_GAP"].value == pytest.approx(1.0)
    assert suite.score(item(clean, text="words"))["PEAK_GAP"].error == "no reference"
    assert suite.score(item(0 * clean, clean))["PEAK_GAP"].error == "the signal is silent"


def test_the_fingerprint_holds_the_functions_file(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Suite(options(f"{own}:peak_gap")).fingerprint()
    assert before["metric PEAK_GAP"] == ["generated", "reference", "text"]
    assert len(before["models"][f"metric {own}:peak_gap"]["sha256"]) == 64
    assert Suite(WITHOUT).fingerprint() != before
    (tmp_path / "somebodys_other.py").write_text(OWN.replace("20 *", "10 *"))
    other = Suite(options("somebodys_other:peak_gap")).fingerprint()
    hashes = [next(v for k, v in each["models"].items() if k.startswith("metric ")) for each in (before, other)]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("somebodys_metrics:unmarked", "does not say its name, unit and direction"),
        ("somebodys_metrics:odd", "its parameter 'weather' is none of generated, reference"),
        ("somebodys_metrics:none", "there is no such function"),
        ("no_such_module:f", "there is no such function"),
        ("somebodys_metrics:OWN_NAME", "there is no such function"),
        ("somebodys_metrics:twin", "two metrics have the column DNSMOS_OVRL"),
        ("loudness", "choose from all, .*distillmos.*, or give MODULE:FUNCTION"),
        ("utmos", "give utmos:PATH, the path of utmos22_strong"),
        ("plcmos:x.onnx", "plcmos takes no path"),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(own: str, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Suite(options(spec))


def test_scoring_processes_have_the_same_metrics(own: str, clean: np.ndarray) -> None:
    with ScoringPool(options(f"{own}:peak_gap", "rate"), 2) as pool:
        futures = [pool.submit(item(gain * clean, clean, text="x")) for gain in (0.5, 0.25, 1.0)]
        values = [future.result() for future in futures]
        assert [round(value["PEAK_GAP"].value or 0.0, 2) for value in values] == [-6.02, -12.04, 0.0]
        assert {value["RATE_RATIO"].value for value in values} == {1.0}


def test_every_optional_metric_is_found_and_says_what_it_gives() -> None:
    kinds = {kind.kind: kind for kind in metric_classes() if issubclass(kind, OptionalMetric)}
    assert sorted(kinds) == [
        "distillmos", "f0", "lps", "pdnsmos", "per", "plcmos", "rate", "scoreq", "speechbertscore", "utmos",
    ]  # fmt: skip
    pages = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
    assert not [kind for kind in kinds if f"`{kind}" not in pages], "a metric that docs/metrics.md does not tell of"


NEEDS = {"distillmos": "distillmos", "per": "hama", "lps": "hama", "f0": "pyworld"}
HAVE = [name for name in ("distillmos", "f0", "lps", "pdnsmos", "per", "plcmos", "rate")
        if importlib.util.find_spec(NEEDS.get(name, "numpy"))]  # fmt: skip


@pytest.fixture(scope="module")
def suite() -> Suite:
    """All metrics that need no path, and whose packages are here."""
    return Suite(options(*HAVE))


@pytest.fixture(scope="module")
def alone(suite: Suite) -> set[str]:
    """The columns that were asked for."""
    return suite.columns.keys() - Suite(WITHOUT).columns.keys()


def cases(clean: np.ndarray, longer: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    random = np.random.default_rng(0)
    eight = clean.reshape(-1)[: len(clean) // 2 * 2].reshape(-1, 2).mean(1).repeat(2)
    return {
        "silence": (0 * clean, "the signal is silent"),
        "40 ms": (clean[16_000:16_640], ""),
        "NaN": (np.where(np.arange(len(clean)) == 9, np.nan, clean).astype(np.float32), "not finite"),
        "clipped": (np.clip(20 * clean, -1, 1), ""),
        "DC": (clean + 0.3, ""),
        "8 kHz": (eight, ""),
        "30 s": (np.resize(longer, 30 * 16_000), ""),
        "hiss": (0.05 * random.standard_normal(32_000).astype(np.float32), ""),
        "empty": (clean[:0], "the signal is empty"),
        "loop": (np.tile(clean[8_000:20_000], 6), ""),
    }


@pytest.fixture(scope="module")
def longer(speech: Callable[[str], np.ndarray]) -> np.ndarray:
    return np.concatenate([speech(name) for name in ("am-michael_0285", "if-sara_0069")])


@pytest.mark.parametrize("case", ["silence", "40 ms", "NaN", "clipped", "DC", "8 kHz", "30 s", "hiss", "empty", "loop"])
def test_the_failure_table(suite: Suite, alone: set[str], clean: np.ndarray, longer: np.ndarray, case: str) -> None:
    wave, reason = cases(clean, longer)[case]
    values = suite.score(item(wave, clean, text="I have no idea.", source=torch.from_numpy(clean)))
    assert alone <= values.keys()
    for name in alone:
        value = values[name]
        # Silence is rated by the DNSMOS networks, as by the script that they were published with.
        if reason and not (case == "silence" and name.startswith("PDNSMOS")):
            assert reason in (value.error or ""), name
            assert value.value == (1.0 if name.startswith("PER") else None), name
        else:
            assert value.value is not None or value.error, name
            assert value.value is None or np.isfinite(value.value), name
    if case in ("clipped", "DC", "8 kHz", "30 s"):
        assert all(values[name].value is not None for name in alone), {n: values[n].error for n in alone}


def test_values_do_not_depend_on_what_was_scored_before(suite: Suite, alone: set[str], longer: np.ndarray) -> None:
    clean = longer[:40_000]
    first = item(clean, clean, text="I have no idea.")
    before = {name: value.value for name, value in suite.score(first).items() if name in alone}
    suite.score(item(longer, longer, text="Other words."))
    again = item(clean, clean, text="I have no idea.")
    assert {name: value.value for name, value in suite.score(again).items() if name in alone} == before


def test_levels_of_what_should_not_be_there() -> None:
    mixture = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    voices = SuiteOptions(task="tse", asr=(), speakers=())
    absent = {"source": torch.from_numpy(mixture), "is_absent": True}
    suite = Suite(voices)
    rows = [suite.score(item(gain * mixture, **absent)) for gain in (1.0, 0.05, 0.0)]
    # Nothing else is measured of an output that should be silent.
    assert {tuple(row) for row in rows} == {("ABSENT_LEVEL", "ABSENT_above_-20dB")}
    assert [row["ABSENT_LEVEL"].value for row in rows] == [
        pytest.approx(0, abs=1e-5),
        pytest.approx(-26.02, abs=0.01),
        -80.0,
    ]
    assert [row["ABSENT_above_-20dB"].value for row in rows] == [1.0, 0.0, 0.0]
    assert "ABSENT_LEVEL" not in suite.score(item(mixture))
    with pytest.raises(MetricError, match="the source is silent"):
        relative_level(mixture, 0 * mixture)
