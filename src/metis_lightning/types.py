"""Records and batches that travel between packages.

Shape letters: B batch, S samples, T token frames (50 a second), Q quantizers, C feature width.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metis_lightning.errors import UserError

TOKEN_RATE = 50  # frames a second of SSL and acoustic tokens
WAVE_RATE = 24_000  # Hz of every waveform in a batch; front ends resample from it
HOP = WAVE_RATE // TOKEN_RATE  # samples of a token frame: 480
VIDEO_RATE = 25  # pictures, and frames of lip features, a second

Applied = Mapping[str, float | str]
"""What was done to a sample: the names and values of its draws, such as `snr_db`."""


class AudioSource(ABC):
    """Audio in an archive or at a URL, or made from files by a rule; its `str` says where it is, for messages."""

    @abstractmethod
    def frames(self) -> tuple[np.ndarray, int]:
        """Return (S, channels) float32 and the sample rate in Hz. A `UserError` if it cannot be read."""

    @abstractmethod
    def stamp(self) -> str:
        """Return what changes with the audio, unread; of a URL its place. A `FileNotFoundError` if it is missing."""

    def digest(self) -> str:
        """Return the SHA-256 of what the audio is made of, the same on every machine. A `UserError` if unreadable."""
        frames, sample_rate = self.frames()
        return hashlib.sha256(f"{sample_rate} {frames.shape}".encode() + frames.tobytes()).hexdigest()


AudioLocation = Path | AudioSource
"""Where audio is: a local file, or a source that reads it."""


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest: a recording of one speaker.

    `path` is absolute; `sample_rate` (Hz) and `channels` are those of the file; `text` is the transcript in `language`
    (ISO 639-1), empty if unknown. At a `speed` other than 1 it is played as a tape, pitch and formants moving with the
    tempo, and `seconds` is what is left of the duration as listed. In corpora of pairs, `mixture` is the same moment,
    noisy or with other voices. `dnsmos` is the quality that the corpus lists (1 to 5). `video` shows the speaker, or
    the mouth alone in 96 x 96 pixels, and `lips` is a file of features computed from it. `is_whole` is false where the
    recording ends before its text does, as in mixtures that are cut to the shortest; None if that is not known.
    """

    id: str
    path: AudioLocation
    speaker: str
    text: str
    language: str
    seconds: float
    sample_rate: int
    split: str
    source: str = ""
    license: str = ""
    speed: float = 1.0
    channels: int = 1
    dnsmos: float | None = None
    mixture: AudioLocation | None = None
    video: Path | None = None
    lips: Path | None = None
    is_whole: bool | None = None


@dataclass(frozen=True)
class Trial:
    """One line of a test list: everything that fixes what a system is given.

    `target`, `interferer` and `enrollment`, of the wanted speaker, are utterance ids, empty where there is none.
    `snr_db` is the power of the target over that of the interferer over its duration; None adds them as they are.
    """

    id: str
    test_set: str
    target: str = ""
    interferer: str = ""
    enrollment: str = ""
    snr_db: float | None = None
    task: str = ""


@dataclass(frozen=True)
class SpeechBatch:
    """Waveforms of a batch, padded with zeros at the end.

    wave: (B, S) float32 at 24 kHz, what the model should say: the prompt followed by the target.
    lengths: (B,) int64, samples of `wave` that are not padding.
    source: (B, S) float32 or None: the prompt, then the target in a mixture (TSE), noise (SE) or another timbre (VC).
    prompt_lengths: (B,) int64 or None, samples of the prompt at the start of `wave`; -1 where it is drawn later.
    ids, speakers, texts: one a row.
    applied: what was done to each row's target to make its `source`, by name; empty if there is no `source`.
    languages, scripts: of the texts (ISO 639-1), and the text that the model is to speak, one a row; may be empty.
    has_source: (B,) bool or None, the rows that have a source, which is zeros in the others; None if all have one.
    features: (B, F, C) float32 or None, frames of a condition that is not audio, such as lips, at the recipe's rate.
    feature_lengths: (B,) int64 or None, frames of `features` that are not padding.
    ssl_tokens, acoustic_tokens: (B, T) and (B, T, Q) int64 or None, tokens of `wave` that were read from a store; where
        a recipe needs no sound beside them, `wave` is (B, 0), and `lengths` are still those of what was recorded.
    phones: (B, P) int64 or None, ids of the scripts by a module's text front end, made with the batch; padding
        at the start.
    samples: `lengths` on the host, so that counting them does not wait for a device; may be empty.
    """

    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    texts: tuple[str, ...]
    wave: Tensor
    lengths: Tensor
    source: Tensor | None = None
    prompt_lengths: Tensor | None = None
    applied: tuple[Applied, ...] = ()
    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    has_source: Tensor | None = None
    features: Tensor | None = None
    feature_lengths: Tensor | None = None
    ssl_tokens: Tensor | None = None
    acoustic_tokens: Tensor | None = None
    phones: Tensor | None = None
    samples: tuple[int, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SpeechBatch:
        """Return the same batch with every tensor on `device`."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SpeechBatch:
        """Return the same batch in page-locked memory, for the DataLoader."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> SpeechBatch:
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **{**values, **tensors})


class Recording(NamedTuple):
    """Audio as one channel (S,) float32 at its own rate in Hz, and how many channels there were."""

    wave: Tensor
    sample_rate: int
    channels: int = 1


@dataclass(frozen=True)
class TestItem:
    """One trial of a test list with its audio, all (S,) float32 at 24 kHz; None where the test set has none.

    `mixture` is the source: target plus interferer (TSE), noisy speech (SE), another voice (VC), nothing (TTS);
    `target` is the clean reference; `interferer` is as loud as in the mixture; `enrollment` is the prompt, which says
    `prompt_text` if that is known. `text` is the target's transcript in `language`; None if unknown. `features` are
    frames (F, C) of lips at 25 Hz (L2S). Metrics are given what `recorded` has of the signals by name, at the rates of
    their files. `sources` are all files that it was made of. With `is_transcribed` the text of the word errors is what
    a recogniser hears in `target`. With `is_absent` the voice of `enrollment` is not in `mixture`. `facts` are what
    else tells it from others, as results rows have them.
    """

    __test__ = False  # not a pytest class

    id: str
    test_set: str
    speaker: str
    text: str | None
    language: str
    mixture: Tensor | None = None
    target: Tensor | None = None
    interferer: Tensor | None = None
    enrollment: Tensor | None = None
    prompt_text: str = ""
    features: Tensor | None = None
    recorded: Mapping[str, Recording] = field(default_factory=dict)
    sources: tuple[AudioLocation, ...] = ()
    is_transcribed: bool = False
    is_absent: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    def recording(self, name: str) -> Recording | None:
        """Return the signal called `name` as it was recorded, None if the test set has none."""
        wave = getattr(self, name)
        return self.recorded.get(name, None if wave is None else Recording(wave, WAVE_RATE))

    def signal(self, name: str) -> Tensor:
        """Return the signal called `name` at 24 kHz. A `UserError` if the test set has none."""
        wave = getattr(self, name)
        if wave is None:
            raise UserError(f"test set {self.test_set!r} has no {name}: what needs one cannot run on it")
        return wave
