"""Fine-tuning for the tasks that read text: TTS, and Omni, which is TTS, VC, TSE and SE at once.

Metis (2502.03128), sections 3.5 and 4.2. Shape letters: B batch, P phones, T frames, C condition width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.types import SpeechBatch


class TtsModule(FinetuneModule):
    """Text to speech: the phones of prompt and target stand before the tokens.

    With LoRA the phone embedding and its MLP are trained as well, 20.5M parameters at the published sizes. What the
    paper's "32M trainable parameters" of LoRA 32 are made of is not known.

    Args:
        text: front end; `espeak` needs the extra `text`, `utf8` (bytes instead of phones) needs nothing.
        kwargs: those of `FinetuneModule`.
    """

    task = "tts"

    def __init__(self, text: str = "espeak", **kwargs: Any) -> None:
        super().__init__(adapter=None, gate_init=0.0, text=text, **kwargs)

    def phones(self, batch: SpeechBatch) -> Tensor | None:
        """Return the phones (B, P) of a batch in which every row has a script; a `UserError` if one has none."""
        if not batch.scripts or not all(batch.scripts):
            raise UserError(
                "TTS needs scripts: give the data module the recipe metis_lightning.data.recipes.recipe.TtsRecipe"
            )
        return super().phones(batch)


class OmniModule(FinetuneModule):
    """Metis-Omni: phones where a row has a script, and features of the source where it has one.

    Rows of all tasks meet in a batch; to a row without a source no condition is added. Phones and a source together
    (text-guided TSE) are not trained, as in the paper.

    Args:
        text: front end of the scripts.
        kwargs: those of `FinetuneModule`; the paper trains all of stage 1, `lora_rank` 0.
    """

    task = "omni"

    def __init__(self, text: str = "espeak", lora_rank: int = 0, **kwargs: Any) -> None:
        super().__init__(lora_rank=lora_rank, adapter="gated", text=text, **kwargs)

    def condition(self, batch: SpeechBatch) -> Tensor:
        """Return the features (B, T, C) of the sources; those of rows without one have no meaning."""
        if batch.source is not None:
            return self.tokenizer.ssl_features(batch.source, batch.lengths)[0]
        # No row takes them, but the adapter is in the graph: DDP expects every trained weight in every step.
        frames = int(self.tokenizer.num_frames(batch.lengths).max())
        return batch.wave.new_zeros(len(batch.ids), frames, self.condition_dim)

    def has_source(self, batch: SpeechBatch) -> Tensor | None:
        """Return which rows (B,) have a source; None if all do."""
        return torch.zeros_like(batch.lengths, dtype=torch.bool) if batch.source is None else batch.has_source
