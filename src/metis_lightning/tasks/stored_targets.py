"""Tokens to train on: of a batch that read them from a store, or else of its audio.

Shape letters: B batch, T frames, Q quantizers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metis_lightning.data.module import SpeechDataModule
from metis_lightning.errors import UserError
from metis_lightning.tokens.fingerprint import fingerprints
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import SpeechBatch


def ssl_targets(tokenizer: SpeechTokenizer, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
    """Return the SSL tokens (B, T) of a batch's waves and their frame counts (B,)."""
    if batch.ssl_tokens is None:
        return tokenizer.ssl_tokens(batch.wave, batch.lengths)
    frames = tokenizer.num_frames(batch.lengths)
    return batch.ssl_tokens[:, : int(frames.max())], frames


def stored_targets(tokenizer: SpeechTokenizer, batch: SpeechBatch) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return SSL tokens (B, T), acoustic tokens (B, T, Q) and frame counts (B,) that were read; None if none were."""
    if batch.ssl_tokens is None or batch.acoustic_tokens is None:
        return None
    ssl, frames = ssl_targets(tokenizer, batch)
    return ssl, batch.acoustic_tokens[:, : ssl.shape[1]], frames


def read_stored(
    datamodule: object, tokenizer: SpeechTokenizer | None, kinds: tuple[str, ...], device: torch.device
) -> None:
    """Have a data module that names a token store read from it what `tokenizer` makes on a device.

    Raises:
        UserError: if the module trains on no tokens, or the store lacks some.
    """
    if not isinstance(datamodule, SpeechDataModule) or datamodule.tokens is None:
        return
    if not kinds or tokenizer is None:
        raise UserError("this module trains on audio, not on tokens: leave data.tokens out")
    found: Mapping[str, str] = fingerprints(tokenizer, kinds, device)
    datamodule.use_tokens(found)
