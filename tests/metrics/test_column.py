"""Columns describe themselves, and survive a file."""

import json

from metis_lightning.metrics.column import Column


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
