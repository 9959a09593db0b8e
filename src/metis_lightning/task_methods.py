"""Requests of every task, the methods that are named after tasks, and the stream of a long result.

Shape letters: S samples at 24 kHz, F frames of lips at 25 Hz, C feature width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.sampling.long_audio import (
    chunk_seed,
    joined_chunks,
    longest_chunk,
    made_ahead,
    sentences,
    with_quiet_ends,
)
from metis_lightning.sampling.request import SHORTEST, Request, Speech, checked_frames
from metis_lightning.sampling.settings import Options, Settings
from metis_lightning.sampling.voice import Prompt, Voice
from metis_lightning.task_table import task_named
from metis_lightning.tokens.phonemes import TextFrontEnd, spoken_seconds
from metis_lightning.tokens.visual.encoder import double_rate
from metis_lightning.types import HOP, TOKEN_RATE, WAVE_RATE


class TaskMethods(ABC):
    """What can be asked of a pipeline, task by task."""

    # The front end of the weights; None if they take no text.
    text: TextFrontEnd | None

    @abstractmethod
    def generate(
        self,
        requests: Sequence[Request],
        seeds: int | Sequence[int] = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> list[Speech]:
        """Answer requests."""

    @abstractmethod
    def voice(self, prompt: Tensor, text: str = "", language: str = "en") -> Voice:
        """Encode a prompt (S,)."""

    def request(
        self,
        task: str,
        prompt: Prompt | None = None,
        source: Tensor | None = None,
        features: Tensor | None = None,
        text: str = "",
        prompt_text: str = "",
        language: str = "en",
        prompt_language: str = "",
        seconds: float | None = None,
    ) -> Request:
        """Return the request of any task, for `generate`. A `UserError` if text, features or seconds are not usable.

        The task is of `TASKS`, or one of your own. `prompt` (S',), the wanted voice, and `source` (S,), what the result
        is made of, are at 24 kHz; `features` (F, C) are of lips at 25 Hz. Weights that read text take what the result
        says, `text` in `language` (ISO 639-1), with what the prompt says, in `prompt_language` if that is another.
        `seconds` is the length of spoken text; None takes the prompt's speaking rate, see `spoken_seconds`.
        """
        if isinstance(prompt, Voice) and not prompt_text and text:
            prompt_text, prompt_language = prompt.text, prompt.language
        parts = (prompt_text, prompt_language or language), (text, language)
        is_spoken, samples = task_named(task).speaks_text, None
        phones = self.phones(*parts) if is_spoken or text or prompt_text else ()
        if is_spoken:
            if seconds is None and prompt is not None:
                seconds = spoken_seconds(text, prompt_text, len(prompt) / WAVE_RATE)
            if seconds is None or not math.isfinite(seconds):
                raise UserError(f"a result of {seconds} s is asked for; give a number of seconds")
            samples = round(seconds * TOKEN_RATE) * HOP
        if features is not None:
            features = double_rate(checked_frames("video", features, -(-SHORTEST // 2))[None])[0]
        return Request(task, prompt, source, features, phones, samples)

    def phones(self, *parts: tuple[str, str]) -> tuple[int, ...]:
        """Return the ids of (text, language) pairs spoken in a row; a `UserError` if the weights cannot speak one."""
        if self.text is None:
            raise UserError("these weights take no text; load some that were trained for TTS or Omni")
        for text, language in parts:
            # The first id is the language's.
            if len(self.text((text, language))) < 2:
                raise UserError(f"nothing can be spoken of the text {text!r}; prompt and result must have words")
        return tuple(self.text(*parts))

    def extract(
        self,
        mixture: Tensor,
        enrollment: Prompt,
        seed: int = 0,
        settings: Settings | None = None,
        text: str = "",
        enrollment_text: str = "",
        language: str = "en",
        **options: Unpack[Options],
    ) -> Speech:
        """Return the enrolled speaker's part of a mixture (S,), both at 24 kHz (target speaker extraction).

        Weights that read text, as Omni's do, can be told what is said in both.
        """
        request = self.request("tse", enrollment, mixture, None, text, enrollment_text, language)
        return self.generate([request], seed, settings, **options)[0]

    def enhance(
        self, noisy: Tensor, seed: int = 0, settings: Settings | None = None, **options: Unpack[Options]
    ) -> Speech:
        """Return clean speech from noisy, reverberant or narrow-band speech (S,) at 24 kHz (speech enhancement)."""
        return self.generate([self.request("se", source=noisy)], seed, settings, **options)[0]

    def convert(
        self,
        source: Tensor,
        prompt: Prompt,
        seed: int = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> Speech:
        """Return the words of a source (S,) in the voice of a prompt (S',), both at 24 kHz (voice conversion)."""
        return self.generate([self.request("vc", prompt, source)], seed, settings, **options)[0]

    def synthesize(
        self,
        text: str,
        prompt: Prompt,
        prompt_text: str = "",
        language: str = "en",
        prompt_language: str = "",
        seconds: float | None = None,
        seed: int = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> Speech:
        """Return a text spoken by the voice of a prompt (zero-shot text to speech); for arguments see `request`."""
        request = self.request("tts", prompt, None, None, text, prompt_text, language, prompt_language, seconds)
        return self.generate([request], seed, settings, **options)[0]

    def lip_to_speech(
        self,
        features: Tensor,
        prompt: Prompt,
        seed: int = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> Speech:
        """Return the speech of a silent video, lip features (F, C) at 25 Hz, in the voice of a prompt (S',)."""
        return self.generate([self.request("l2s", prompt, features=features)], seed, settings, **options)[0]

    def stream(
        self,
        task: str,
        prompt: Prompt | None = None,
        source: Tensor | Iterable[Tensor] | None = None,
        text: str = "",
        prompt_text: str = "",
        language: str = "en",
        prompt_language: str = "",
        seed: int = 0,
        settings: Settings | None = None,
        chunk_seconds: float | None = None,
        together: int = 1,
        **options: Unpack[Options],
    ) -> Iterator[Tensor]:
        """Yield the result of a long source or text in pieces (S,), each while the next is being made.

        A source, which may come in blocks (S,), is worked on in overlapping chunks of at most `chunk_seconds`, by
        default what a prompt leaves of the length of training, so many `together`; a text sentence by sentence.
        Arguments and errors are those of `request` and `generate`.
        """
        # Encoded once for all pieces.
        voice = self.voice(prompt) if isinstance(prompt, Tensor) else prompt
        longest = longest_chunk(0 if voice is None else len(voice) / WAVE_RATE, chunk_seconds)

        def made(parts: Sequence[tuple[int, Tensor | None, str]]) -> list[Tensor]:
            said = prompt_text, language, prompt_language
            requests = [self.request(task, voice, part, None, words, *said) for _, part, words in parts]
            seeds = [chunk_seed(seed, number) for number, _, _ in parts]
            return [speech.wave for speech in self.generate(requests, seeds, settings=settings, **options)]

        pieces: Iterator[Tensor]
        if source is None:
            rate = 1.0 if voice is None else len((prompt_text or voice.text).encode()) / len(voice) * WAVE_RATE
            parts = enumerate(sentences(text, int(longest * rate)))
            pieces = (with_quiet_ends(made([(number, None, words)])[0]) for number, words in parts)
        else:
            blocks, size = [source] if isinstance(source, Tensor) else source, round(longest * WAVE_RATE)
            pieces = joined_chunks(blocks, size, together, lambda chunks: made([(*chunk, text) for chunk in chunks]))
        yield from made_ahead(pieces)
