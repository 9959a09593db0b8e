"""Fine-tuning for TTS, VC, TSE and SE at once (Metis, 2502.03128, sections 3.5 and 4.2).

Shape letters: B batch, T frames, C condition width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.types import SpeechBatch


class OmniModule(FinetuneModule):
    """Metis-Omni: phones where a row has a script, and features of what is heard where it hears something.

    Rows of all tasks meet in a batch; to a row that hears nothing no condition is added. Phones and a source
    together (text-guided TSE) are not trained, as in the paper.

    Args:
        text: front end of the scripts.
        kwargs: those of `FinetuneModule`; the paper trains all of stage 1, `lora_rank` 0.
    """

    task = "omni"
    answers = ("tts", "vc", "tse", "se")

    def __init__(self, text: str = "espeak", lora_rank: int = 0, **kwargs: Any) -> None:
        super().__init__(lora_rank=lora_rank, adapter="gated", text=text, **kwargs)

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return the features (B, T, C) of what is heard; those of rows that hear nothing have no meaning."""
        if batch.source is not None:
            return self.tokenizer.ssl_features(batch.source, batch.lengths)[0]
        # For nobody to hear, but so the adapter is in the graph: DDP expects every trained weight in every step.
        frames = int(self.tokenizer.num_frames(batch.lengths).max())
        return batch.wave.new_zeros(len(batch.ids), frames, self.condition_dim)

    def heard(self, batch: SpeechBatch) -> Tensor | None:
        """Return which rows (B,) hear something; None if all do."""
        return torch.zeros_like(batch.lengths, dtype=torch.bool) if batch.source is None else batch.has_source
