import json

import pytest

from metis_lightning.metrics.metric import CerValue, Column, MetricError, MetricValue, WerValue, measure

A, B = Column("A", "A"), Column("B", "B")


def test_a_value_or_a_reason() -> None:
    with pytest.raises(ValueError, match="either"):
        MetricValue(None)
    with pytest.raises(ValueError, match="either"):
        MetricValue(1.0, "but")


def test_a_rate_may_stand_beside_a_reason_but_not_without_its_counts() -> None:
    assert WerValue(1.0, "silent", 3, 3, 0, 3, 0).length == 3
    with pytest.raises(ValueError, match="a value or an error"):
        WerValue(None)
    with pytest.raises(ValueError, match="counts"):
        CerValue(1.0)


def test_measure_turns_a_metric_error_into_a_reason_for_each_column() -> None:
    def fail() -> tuple[float, ...]:
        raise MetricError("silent")

    assert measure((A, B), fail) == {"A": MetricValue(None, "silent"), "B": MetricValue(None, "silent")}
    assert measure((A,), lambda: (2,)) == {"A": MetricValue(2.0)}


def test_measure_lets_bugs_through() -> None:
    with pytest.raises(ZeroDivisionError):
        measure((A,), lambda: (1 / 0,))


def test_a_column_survives_json() -> None:
    column = Column.by_model("WER_asr", "whisper-large-v3", unit="%", higher_is_better=False)
    assert column.name == "WER_asr_whisper-large-v3"
    assert Column.from_json(column.name, json.loads(json.dumps(column.to_json()))) == column
    assert column.is_word_errors
    assert column.scale == 100.0


def test_titles_have_unit_model_and_direction() -> None:
    assert Column("SI_SDR", "SI_SDR", "dB").title == "SI SDR dB ↑"
    assert Column("RTF", "RTF", higher_is_better=False).title == "RTF ↓"
    similar = Column.by_model("SIM_target", "XLSR")
    assert (similar.title, similar.label) == ("SIM target (XLSR) ↑", "SIM target (XLSR)")
    assert not similar.is_word_errors
