"""Acoustic tokens of whole utterances, kept in memory: encoding costs more than a step of a small model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import SpeechBatch


class TokenCache:
    """Both kinds of tokens of a batch, computed once for each utterance id.

    Only for recipes that give whole utterances: the id must stand for the waveform.
    """

    def __init__(self, tokenizer: SpeechTokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def tokens(self, batch: SpeechBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return SSL tokens (B, T), acoustic tokens (B, T, Q) and frame counts (B,) of a batch of clean speech."""
        for row, name in enumerate(batch.ids):
            if name not in self._known:
                self._known[name] = self._one(batch, row)
        pairs = [self._known[name] for name in batch.ids]
        device = batch.wave.device
        frames = torch.tensor([len(ssl) for ssl, _ in pairs], device=device)
        ssl, acoustic = (
            pad_sequence([pair[kind] for pair in pairs], batch_first=True).to(device).long() for kind in (0, 1)
        )
        return ssl, acoustic, frames

    def _one(self, batch: SpeechBatch, row: int) -> tuple[Tensor, Tensor]:
        length = batch.lengths[row : row + 1]
        wave = batch.wave[row : row + 1, : int(length)]
        ssl, frames = self.tokenizer.ssl_tokens(wave, length)
        acoustic = self.tokenizer.acoustic_tokens(wave)
        # The SSL front end gives a frame less than the codec: its last window would reach past the end.
        count = min(int(frames), acoustic.shape[1])
        return ssl[0, :count].short().cpu(), acoustic[0, :count].short().cpu()
