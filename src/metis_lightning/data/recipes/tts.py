"""Text to speech: an utterance and the words that it says."""

from __future__ import annotations

import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.recipes.recipe import Recipe, Segment, SpeechItem
from metis_lightning.errors import UserError


class TtsRecipe(Recipe):
    """Whole utterances with their transcripts as scripts (Metis, 2502.03128, section 3.5).

    Nothing is cropped: the script must be what is said. The prompt is a prefix that the module's prompt rule draws, so
    a script covers prompt and target, as prompt text and text do at inference.
    """

    needs_audio = False

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return the utterance with its script.

        Raises:
            UserError: if the utterance has no transcript.
        """
        utterance = corpus.utterances[index]
        if not utterance.text.strip():
            raise UserError(f"utterance {utterance.id!r} has no text, which TTS needs; leave it out of the manifest")
        wave = corpus.wave(index)
        return SpeechItem.of(utterance, wave, script=utterance.text, pieces=(Segment(index, 0, wave.numel()),))
