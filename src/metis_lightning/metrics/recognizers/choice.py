"""Recognisers by their specification: `KIND[:SOURCE]`, e.g. `whisper:openai/whisper-large-v3` or `tiny.en`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.recognizers.base import AsrBackend, FasterWhisperTiny, PocketSphinx, offline_asr
from metis_lightning.metrics.recognizers.ctc import HubertCtc
from metis_lightning.metrics.recognizers.faster_whisper import FasterWhisper
from metis_lightning.metrics.recognizers.paraformer import Paraformer
from metis_lightning.metrics.recognizers.whisper import Whisper

Make = Callable[[str, str, int], AsrBackend]
"""From a source (maybe empty), a device and a number of threads."""


def _sourced(kind: Callable[..., AsrBackend], *, threads: bool = False) -> Make:
    """Return how a kind with a source is made; its own default source where none is given."""

    def make(source: str, device: str, num_threads: int) -> AsrBackend:
        named = {"source": source} if source else {}
        return kind(**named, device=device, **({"num_threads": num_threads} if threads else {}))

    return make


KINDS: dict[str, Make] = {
    "embedded": lambda source, device, num_threads: offline_asr(num_threads),
    "tiny.en": lambda source, device, num_threads: FasterWhisperTiny(num_threads),
    "pocketsphinx": lambda source, device, num_threads: PocketSphinx(),
    "whisper": _sourced(Whisper),
    "faster-whisper": _sourced(FasterWhisper, threads=True),
    "hubert-ctc": _sourced(HubertCtc),
    "paraformer": _sourced(Paraformer),
}


class Recognizers:
    """Recognisers in order of preference; an utterance goes to the first that knows its language."""

    def __init__(self, specs: Sequence[str], device: str = "cpu", num_threads: int = 1) -> None:
        """Load them.

        Args:
            specs: `KIND[:SOURCE]`, or `LANGUAGE=KIND[:SOURCE]` to ask it for that language (ISO 639-1) only.
            device: "cpu" or "cuda".
            num_threads: CPU threads of each.

        Raises:
            UserError: a specification is unknown, or a package or a model is missing.
        """
        self._all = [_parsed(spec, device, num_threads) for spec in specs]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._all)

    def of(self, language: str) -> AsrBackend | None:
        """Return the one that is asked for a language, None if none knows it."""
        for only, backend in self._all:
            if only in (None, language) and (backend.languages is None or language in backend.languages):
                return backend
        return None

    def is_kept_for(self, language: str) -> bool:
        """Tell whether one is asked for this language alone."""
        return any(only == language for only, _ in self._all)

    def require(self, language: str) -> AsrBackend:
        """Return the one that is asked for a language.

        Raises:
            MetricError: none knows it.
        """
        backend = self.of(language)
        if backend is None:
            names = " and ".join(backend.name for _, backend in self._all)
            known = sorted({each for _, backend in self._all for each in backend.languages or ()})
            what = "English" if known == ["en"] else ", ".join(known)
            raise MetricError(f"{names} recognises {what} only; the language is '{language}'")
        return backend

    def fingerprint(self) -> list[dict[str, object]]:
        """Return the fingerprints of all, in order, with the language that each is kept for."""
        return [{"language": only, **backend.fingerprint()} for only, backend in self._all]

    @property
    def first(self) -> AsrBackend:
        """The first of all, by which a column is named if no one knows the language."""
        return self._all[0][1]


def _parsed(spec: str, device: str, num_threads: int) -> tuple[str | None, AsrBackend]:
    found = re.fullmatch(r"(?:([a-z]{2})=)?([^:]+)(?::(.+))?", spec)
    if found is None or found[2] not in KINDS:
        raise UserError(f"unknown recogniser '{spec}': give [LANGUAGE=]KIND[:SOURCE], KIND one of {', '.join(KINDS)}")
    return found[1], KINDS[found[2]](found[3] or "", device, num_threads)
