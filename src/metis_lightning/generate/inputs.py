"""Whether a text can be read: its language is known, and its letters are those that the language is written in.

Lip features of a video file, by the visual encoder that the weights for lip to speech were trained with.

Inputs of a job, read and checked: prompts, sources, lip features, and texts.

Shape letters: S samples at 24 kHz, F frames at 25 Hz, C feature width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from metis_lightning.data.media.audio import audio_seconds, decoded_length, read_audio
from metis_lightning.data.media.decoding import SILENT_PEAK
from metis_lightning.data.recipes.l2s import read_feature_file
from metis_lightning.errors import UserError
from metis_lightning.generate.jobs import Job
from metis_lightning.pipeline import SHORTEST
from metis_lightning.tokens.phonemes import TextFrontEnd, spoken_seconds
from metis_lightning.tokens.visual.auto_avsr import AutoAvsrFeatures
from metis_lightning.tokens.visual.lip_features import lip_features
from metis_lightning.types import HOP, VIDEO_RATE, WAVE_RATE

_LATIN = ("LATIN",)
_CHINESE = ("CJK", "IDEOGRAPHIC", "BOPOMOFO")
SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "en": _LATIN,
    "de": _LATIN,
    "fr": _LATIN,
    "it": _LATIN,
    "ru": ("CYRILLIC", *_LATIN),
    "zh": (*_CHINESE, *_LATIN),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH", *_CHINESE, *_LATIN),
    "ko": ("HANGUL", *_CHINESE, *_LATIN),
}
"""What letters' names in Unicode start with, by language (ISO 639-1); foreign words may stand in Latin letters."""

# Letters that belong to one script; modifiers, such as the Hawaiian okina, belong to any.
_SCRIPTED = ("Lu", "Ll", "Lt", "Lo")


def check_text(what: str, text: str, language: str, known: Sequence[str]) -> None:
    """Check that a text is one of its language.

    Args:
        what: how messages call the text.
        text: to be checked.
        language: that it is said to be in.
        known: the languages that the weights' front end reads.

    Raises:
        UserError: if the language is not known, a letter is of another script, or there is nothing to speak.
    """
    if language not in known:
        raise UserError(f"{what}: the language {language!r} is not one of these weights'; they read {', '.join(known)}")
    # Compatibility forms, such as full-width letters, are read as what they stand for.
    letters = [sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign)[0] in "LN"]
    if not letters:
        raise UserError(f"{what}: nothing can be spoken of {text[:40]!r}; give words")
    for sign in letters:
        script = unicodedata.name(sign, "UNKNOWN").split()[0]
        if unicodedata.category(sign) in _SCRIPTED and script not in SCRIPTS[language]:
            raise UserError(
                f"{what}: the letter {sign!r} ({script.capitalize()}) is not one that {language!r} is written in; name "
                f"the text's language, one of {', '.join(known)}, or write it in {SCRIPTS[language][0].capitalize()}"
            )


@dataclass(frozen=True)
class LipReader:
    """Makes lip features of videos.

    weights: Auto-AVSR's, a file; None if none were given.
    device: where the encoder runs.
    """

    weights: Path | None
    device: str

    @cached_property
    def encoder(self) -> AutoAvsrFeatures:
        """The encoder, whose weights are read when it first sees a video.

        Raises:
            UserError: if no weights were given.
        """
        if self.weights is None:
            raise UserError(
                "a video needs the visual encoder: give Auto-AVSR's weights as --visual-encoder, or its lip features "
                "as --features"
            )
        return AutoAvsrFeatures(self.weights)

    def read(self, video: Path) -> Tensor:
        """Return the lip features (F, C) of a video, 25 a second.

        Raises:
            UserError: if the video is unreadable or shows no face, or what that takes is not there.
        """
        return lip_features(video, self.encoder, self.device)


LONGEST = 30.0
"""Seconds of the longest speech that the models were trained on (Emilia's utterances last 3 to 30 s), prompt and all.

A prompt may be so long. What is longer as a source is worked on in chunks.
"""

LONGEST_RESULT = 60.0
"""Seconds of the longest result that is not made in chunks: speech of a text or of lips."""


@dataclass(frozen=True)
class Row:
    """A job with its inputs read, or one chunk of it.

    prompt, source: (S,) at 24 kHz or None; features: (F, C) or None.
    """

    job: Job
    seed: int
    prompt: Tensor | None = None
    source: Tensor | None = None
    features: Tensor | None = None


def read_row(job: Job, lips: LipReader) -> Row:
    """Read a job's inputs.

    Raises:
        UserError: if one is unreadable, silent, or of a wrong length.
    """
    source = job.path("source")
    return Row(
        job,
        job.seed,
        prompt=read_prompt_of(job),
        source=None if source is None else checked_sound("source", source, read_audio(source, WAVE_RATE)),
        features=_features(job, lips),
    )


def read_prompt_of(job: Job) -> Tensor | None:
    """Return a job's prompt (S,); None if it has none."""
    path = job.path("prompt")
    return None if path is None else read_prompt(path)


def length_remarks(job: Job) -> list[str]:
    """Return how headers of a job's sounds and what they hold differ: the result is of what they hold.

    Raises:
        UserError: if one is unreadable.
    """
    paths = (job.path(name) for name in ("source", "prompt"))
    return [remark for path in paths if path is not None and (remark := decoded_length(path)[1])]


def read_prompt(path: Path) -> Tensor:
    """Read the sample of the wanted voice, (S,).

    Raises:
        UserError: if it is unreadable, silent, or of a wrong length.
    """
    # Counted first: what is far too long need not be kept.
    _check_prompt_seconds(path, audio_seconds(path))
    return _prompt(path, path.stat().st_mtime_ns)


# One prompt often goes for every line of a list.
@lru_cache(4)
def _prompt(path: Path, changed: int) -> Tensor:
    wave = checked_sound("prompt", path, read_audio(path, WAVE_RATE))
    _check_prompt_seconds(path, len(wave) / WAVE_RATE)
    return wave


def _check_prompt_seconds(path: Path, seconds: float) -> None:
    # Converting the rate may add a sample.
    if seconds > LONGEST + 0.01:
        raise UserError(
            f"the prompt {path} lasts {seconds:.1f} s; the longest prompt is {LONGEST:g} s, as long as the speech that "
            "the models were trained on: cut out 3 to 10 s of the wanted voice"
        )


def checked_sound(name: str, path: Path, wave: Tensor) -> Tensor:
    """Return a wave (S,) that is long enough and not silent.

    Raises:
        UserError: if it is not.
    """
    least = SHORTEST * HOP / WAVE_RATE
    if len(wave) < SHORTEST * HOP:
        seconds, better = len(wave) / WAVE_RATE, "; 3 to 10 s are better" if name == "prompt" else ""
        raise UserError(f"the {name} {path} lasts {seconds:.2f} s; give at least {least:.1f} s{better}")
    if is_silent(wave):
        raise silent(name, path)
    return wave


def silent(name: str, path: Path) -> UserError:
    """Return what is raised for silence."""
    return UserError(f"the {name} {path} is silent; check the recording, or give another file")


def is_silent(wave: Tensor) -> bool:
    """Tell whether nothing is heard in a wave (S,), direct current left out.

    >>> import torch
    >>> is_silent(torch.full((9,), 0.2)), is_silent(torch.tensor([0.0, 0.01]))
    (True, False)
    """
    return bool((wave - wave.mean()).abs().max() <= SILENT_PEAK) if len(wave) else True


def check_texts(job: Job, text: TextFrontEnd | None) -> None:
    """Check a job's texts against what the weights read.

    Raises:
        UserError: if they take no text, or a text or its language is not one that they read.
    """
    if "text" not in job.inputs:
        return
    if text is None:
        raise UserError(f"{job.where}these weights take no text; give some that were trained for TTS or Omni")
    for name, language in (("text", language_of(job)), ("prompt_text", prompt_language_of(job))):
        if name in job.inputs:
            called = job.labels.get(name) or f"--{name.replace('_', '-')}"
            check_text(f"{job.where}{called}", job.text(name), language, text.languages())


def language_of(job: Job) -> str:
    """Return the language of a job's text without its region (ISO 639-1)."""
    return (job.text("language") or "en").split("-")[0].lower()


def prompt_language_of(job: Job) -> str:
    """Return the language of the prompt's text without its region."""
    return (job.text("prompt_language") or language_of(job)).split("-")[0].lower()


def result_seconds(job: Job) -> float:
    """Return how long a job's result lasts, by its files; 0 if that is not known before it is made.

    Raises:
        UserError: if a file is unreadable, or the result would be too long.
    """
    source, features = job.path("source"), job.path("features")
    if source is not None:
        return audio_seconds(source)
    if job.seconds is not None:
        seconds = job.seconds
    elif features is not None:
        seconds = len(read_feature_file(features)) / VIDEO_RATE
    elif "prompt_text" in job.inputs and (prompt := job.path("prompt")) is not None:
        seconds = spoken_seconds(job.text("text"), job.text("prompt_text"), audio_seconds(prompt))
    else:
        return 0.0
    if seconds > LONGEST_RESULT:
        raise UserError(
            f"{job.where}the result would last {seconds:.1f} s; the longest is {LONGEST_RESULT:g} s: cut the input "
            "into sentences, and give them one by one or as a list"
        )
    return seconds


def _features(job: Job, lips: LipReader) -> Tensor | None:
    path, video = job.path("features"), job.path("video")
    if path is not None:
        return read_feature_file(path)
    return None if video is None else lips.read(video)
