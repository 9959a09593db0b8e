"""Fine-tuning for zero-shot text to speech (Metis, 2502.03128, sections 3.5 and 4.2).

Shape letters: B batch, P phones.
"""

from __future__ import annotations

from typing import Any

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
        """Return the phones (B, P) of a batch in which every row has a script.

        Raises:
            UserError: if one has none.
        """
        if not batch.scripts or not all(batch.scripts):
            raise UserError(
                "TTS needs scripts: give the data module the recipe metis_lightning.data.recipes.tts.TtsRecipe"
            )
        return super().phones(batch)
