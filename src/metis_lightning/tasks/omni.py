"""Fine-tuning for TTS, VC, TSE and SE at once (Metis, 2502.03128, sections 3.5 and 4.2).

Shape letters: B batch, T frames, C condition width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.types import SpeechBatch


class OmniModule(FinetuneModule):
    """Metis-Omni: phones where a row has a script, and features of what is heard where it hears something.

    Rows of all tasks meet in a batch; a row that hears nothing has zeros for its features. Phones and a source
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
        """Return the features (B, T, C) of what is heard, zeros in rows that hear nothing."""
        features = self.tokenizer.ssl_features(batch.wave if batch.source is None else batch.source, batch.lengths)[0]
        if batch.source is None:
            return features.new_zeros(features.shape)
        return features if batch.heard is None else features * batch.heard[:, None, None]
