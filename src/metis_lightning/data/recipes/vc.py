"""Voice conversion: a prompt of one voice, then its words in another."""

from __future__ import annotations

import torch
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.mixing import peak_gain
from metis_lightning.data.recipes.prompts import Enrollment, Prompts, draw_interferer
from metis_lightning.data.recipes.recipe import Recipe, SpeechItem
from metis_lightning.data.recipes.timbre import TimbreConverter, WorldConverter
from metis_lightning.types import Applied


class VcRecipe(Recipe):
    """Speech as the target, and the same words in another timbre as the source (Metis, 2502.03128, section 4.2)."""

    def __init__(
        self,
        converter: TimbreConverter | None = None,
        enrollment: Enrollment = "prefix",
        prompt_fraction: tuple[float, float] = (0.1, 0.4),
        max_prompt_seconds: float = 4.0,
        perturb_prompt: bool = False,
    ) -> None:
        """Choose the sources.

        Args:
            converter: makes the other timbre; None takes `WorldConverter()`.
            enrollment: "prefix" (the paper's) or "utterance" (as at inference), see `Prompts`.
            prompt_fraction: for "prefix", the prompt's share of the utterance is uniform between these.
            max_prompt_seconds: no prompt is longer.
            perturb_prompt: whether the prompt, too, is heard in the other timbre. False is what the released code is
                given at inference; the paper's text, read literally, converts the whole utterance.

        Raises:
            ValueError: if `prompt_fraction` is not a range within [0, 1), or `enrollment` is unknown.
        """
        self.converter = WorldConverter() if converter is None else converter
        self.prompts = Prompts(enrollment, prompt_fraction, max_prompt_seconds)
        self.perturb_prompt = perturb_prompt

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return prompt and target as `wave`, prompt and converted target as `source`."""
        utterance = corpus.utterances[index]
        prompt, target, pieces, chosen = self.prompts.draw(corpus, index, generator)
        wave = torch.cat([prompt, target])
        start = 0 if self.perturb_prompt else prompt.numel()
        converted, applied = self._convert(corpus, index, wave[start:], generator)
        source = torch.cat([wave[:start], converted])
        gain = peak_gain(wave, source)
        return SpeechItem(
            id=utterance.id,
            speaker=utterance.speaker,
            text=utterance.text,
            wave=wave * gain,
            source=source * gain,
            prompt_length=prompt.numel(),
            applied={**chosen, **applied, "gain": gain},
            pieces=pieces,
        )

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        """Return the utterance's length, and the longest prompt's where that is put before it."""
        return self.prompts.seconds(corpus, index)

    def varies(self, corpus: SpeechCorpus) -> bool:
        """Tell whether the prompt is another utterance, which is drawn."""
        return self.prompts.vary

    def drawn_seconds(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> float:
        """Return the utterance's length, and that of the prompt that such a generator draws."""
        return self.prompts.drawn_seconds(corpus, index, generator)

    def _convert(
        self, corpus: SpeechCorpus, index: int, wave: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Applied]:
        """Return wave (S,) in another timbre, and what was done.

        Raises:
            ValueError: if the converter changed the length, which moves words in time.
        """
        if not self.converter.needs_reference:
            converted, applied = self.converter.convert(wave, None, generator)
        else:
            other = draw_interferer(corpus, index, generator)
            converted, applied = self.converter.convert(wave, corpus.wave(other), generator)
            applied = {**applied, "reference": corpus.utterances[other].id}
        if converted.shape != wave.shape:
            raise ValueError(
                f"{type(self.converter).__name__} made {tuple(converted.shape)} samples of {tuple(wave.shape)}"
            )
        return converted, applied
