"""Reads and checks the inputs of a job: prompts, sources, lip features of videos, and texts.

Shape letters: S samples at 24 kHz, F frames at 25 Hz, C feature width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from metis_lightning.data.media.audio import audio_seconds, read_audio
from metis_lightning.data.recipes.l2s import read_feature_file
from metis_lightning.errors import UserError
from metis_lightning.generate.jobs import Job
from metis_lightning.options import flag
from metis_lightning.pipeline import SHORTEST, Metis, Request, Voice
from metis_lightning.sampling.long_audio import is_silent
from metis_lightning.sampling.settings import LONGEST
from metis_lightning.sampling.voice import Prompt
from metis_lightning.tokens.phonemes import TextFrontEnd, spoken_seconds
from metis_lightning.tokens.visual.auto_avsr import AutoAvsrFeatures
from metis_lightning.tokens.visual.encoder import VisualEncoder
from metis_lightning.tokens.visual.lip_features import lip_features
from metis_lightning.types import HOP, VIDEO_RATE, WAVE_RATE
from metis_lightning.weights.build import load_visual_encoder
from metis_lightning.weights.bundle import bundle_folder

# Seconds of the longest speech of lips, or of a text whose length is given; others are worked on in pieces.
LONGEST_RESULT = 60.0

_CHINESE = ("CJK", "IDEOGRAPHIC", "BOPOMOFO", "LATIN")
# What letters' names in Unicode start with, by language (ISO 639-1); foreign words may stand in Latin letters.
SCRIPTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("en", "de", "fr", "it"), ("LATIN",)),
    "ru": ("CYRILLIC", "LATIN"),
    "zh": _CHINESE,
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH", *_CHINESE),
    "ko": ("HANGUL", *_CHINESE),
}


@dataclass(frozen=True)
class LipReader:
    """Makes lip features of videos by Auto-AVSR's weights, or without them by the visual encoder of a bundle."""

    weights: Path | None
    device: str
    bundle: str = "nano"

    @cached_property
    def encoder(self) -> VisualEncoder:
        """The encoder; Auto-AVSR's weights are read when it first sees a video. A `UserError` if there is none."""
        if self.weights is not None:
            return AutoAvsrFeatures(self.weights)
        encoder = load_visual_encoder(bundle_folder(self.bundle))
        if encoder is None:
            cure = "give Auto-AVSR's weights as --visual-encoder, or its lip features as --features"
            raise UserError(f"a video needs the visual encoder: {cure}")
        return encoder.to(self.device)


def read_request(metis: Metis, job: Job, lips: LipReader) -> Request:
    """Read a job's inputs as a request. A `UserError` if one is unreadable, silent, or of a wrong length."""
    prompt, source, features = read_prompt(job), None, None
    if (path := job.path("source")) is not None:
        source = _audible("source", path, read_audio(path, WAVE_RATE))
    if (path := job.path("features")) is not None:
        features = read_feature_file(path)
    elif (path := job.path("video")) is not None:
        features = lip_features(path, lips.encoder, lips.device)
    text, prompt_text = job.text("text"), job.text("prompt_text")
    return metis.request(job.task, prompt, source, features, text, prompt_text, *job.languages, job.seconds)


def prompt_seconds(job: Job) -> float:
    """Return how long a job's prompt lasts; 0 without one."""
    if (path := job.path("prompt")) is None:
        return 0.0
    return len(_voice(path, path.stat().st_mtime_ns)) / WAVE_RATE if job.has_voice else audio_seconds(path)


def read_prompt(job: Job) -> Prompt | None:
    """Read the wanted voice, None if a job has none. A `UserError` if it is silent or of a wrong length."""
    if (path := job.path("prompt")) is None:
        return None
    if job.has_voice:
        return _voice(path, path.stat().st_mtime_ns)
    # Counted first: a file that is far too long need not be kept.
    _check_prompt_seconds(path, audio_seconds(path))
    return _prompt(path, path.stat().st_mtime_ns)


def encoded_prompt(metis: Metis, job: Job) -> Voice:
    """Return the voice of a job's prompt, with what that says; errors are those of `read_prompt`."""
    prompt = read_prompt(job)
    if prompt is None:
        raise ValueError("the job has no prompt")
    return metis.voice(prompt, job.text("prompt_text"), job.languages[1]) if isinstance(prompt, Tensor) else prompt


# One prompt often goes for every line of a list.
@lru_cache(4)
def _voice(path: Path, changed: int) -> Voice:
    return Voice.load(path)


@lru_cache(4)
def _prompt(path: Path, changed: int) -> Tensor:
    wave = _audible("prompt", path, read_audio(path, WAVE_RATE))
    _check_prompt_seconds(path, len(wave) / WAVE_RATE)
    return wave


def _check_prompt_seconds(path: Path, seconds: float) -> None:
    # Converting the rate may add a sample.
    if seconds > LONGEST + 0.01:
        limit = f"the longest prompt is {LONGEST:g} s, as long as the speech that the models were trained on"
        raise UserError(f"the prompt {path} lasts {seconds:.1f} s; {limit}: cut out 3 to 10 s of the wanted voice")


def _audible(name: str, path: Path, wave: Tensor) -> Tensor:
    """Return a wave (S,) that is long enough and not silent; raise a `UserError` of any other."""
    if len(wave) < SHORTEST * HOP:
        needed = f"at least {SHORTEST * HOP / WAVE_RATE:.1f} s{'; 3 to 10 s are better' if name == 'prompt' else ''}"
        raise UserError(f"the {name} {path} lasts {len(wave) / WAVE_RATE:.2f} s; give {needed}")
    if is_silent(wave):
        raise silence_error(name, path)
    return wave


def silence_error(name: str, path: Path) -> UserError:
    """Return the error of a silent input."""
    return UserError(f"the {name} {path} is silent; check the recording, or give another file")


def check_texts(job: Job, front_end: TextFrontEnd | None) -> None:
    """Raise a `UserError` if the weights take no text, or a text of a job or its language is not one that they read."""
    if "text" not in job.inputs:
        return
    if front_end is None:
        raise UserError(f"{job.where}these weights take no text; give some that were trained for TTS or Omni")
    for name, language in zip(("text", "prompt_text"), job.languages, strict=True):
        if name in job.inputs:
            label = job.where + (job.labels.get(name) or flag(name))
            check_text(label, job.text(name), language, front_end.languages)


def check_text(label: str, text: str, language: str, languages: Sequence[str]) -> None:
    """Check a text, called `label` in messages. A `UserError` if weights of these `languages` cannot read it."""
    names = ", ".join(languages)
    if language not in languages:
        raise UserError(f"{label}: the language {language!r} is not one of these weights'; they read {names}")
    # Compatibility forms, such as full-width letters, are read as what they stand for.
    letters = [sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign)[0] in "LN"]
    if not letters:
        raise UserError(f"{label}: nothing can be spoken of {text[:40]!r}; give words")
    for sign in letters:
        script = unicodedata.name(sign, "UNKNOWN").split()[0]
        # Modifiers, such as the Hawaiian okina, belong to any script.
        if unicodedata.category(sign) in ("Lu", "Ll", "Lt", "Lo") and script not in SCRIPTS[language]:
            letter = f"the letter {sign!r} ({script.capitalize()})"
            cure = f"name the text's language, one of {names}, or write it in {SCRIPTS[language][0].capitalize()}"
            raise UserError(f"{label}: {letter} is not one that {language!r} is written in; {cure}")


def result_seconds(job: Job) -> float:
    """Return how long a job's result lasts, 0 if that is not known before. A `UserError` if it would be too long."""
    if (source := job.path("source")) is not None:
        return audio_seconds(source)
    seconds = job.seconds or 0.0
    if job.seconds is None and (features := job.path("features")) is not None:
        seconds = len(read_feature_file(features)) / VIDEO_RATE
    elif job.seconds is None and "prompt_text" in job.inputs and "prompt" in job.inputs:
        # Of any length: it is spoken sentence by sentence.
        return spoken_seconds(job.text("text"), job.text("prompt_text"), prompt_seconds(job))
    if seconds > LONGEST_RESULT:
        cure = "cut the input into sentences, and give them one by one or as a list"
        limit = f"the longest is {LONGEST_RESULT:g} s"
        raise UserError(f"{job.where}the result would last {seconds:.1f} s; {limit}: {cure}")
    return seconds
