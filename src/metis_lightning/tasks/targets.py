"""Acoustic tokens of whole utterances, kept in memory: encoding costs more than a step of a small model.

Tokens to train on: of a batch that read them from a store, or else of its audio.

Shape letters: B batch, T frames, Q quantizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.errors import UserError
from metis_lightning.tokens.fingerprint import fingerprints
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import SpeechBatch


@dataclass(frozen=True)
class _Tokens:
    """SSL tokens (T,) and acoustic tokens (T, Q) of an utterance, int16, and the fingerprint of its audio."""

    ssl: Tensor
    acoustic: Tensor
    of: tuple[int, int]


class TokenCache:
    """Both kinds of tokens of a batch, computed once for each utterance id.

    Only for recipes that give whole utterances: the id must stand for the waveform.

    Args:
        tokenizer: makes the tokens.
        keep: without it nothing is kept, utterances may be cropped, and a batch is encoded as one, which a fast device
            wants; None keeps what is on the CPU. Kept tokens take 4.5 MiB an hour at 12 quantizers.
    """

    def __init__(self, tokenizer: SpeechTokenizer, keep: bool | None = True) -> None:
        self.tokenizer, self.keep = tokenizer, keep
        self._known: dict[str, _Tokens] = {}

    def tokens(self, batch: SpeechBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return SSL tokens (B, T), acoustic tokens (B, T, Q) and frame counts (B,) of a batch of clean speech.

        Raises:
            UserError: if an utterance is not the one that was kept under its id.
        """
        keep = batch.wave.device.type == "cpu" if self.keep is None else self.keep
        if not keep:
            return self._encode(batch.wave, batch.lengths)
        rows = [self._row(batch, row, of) for row, of in enumerate(_fingerprints(batch.wave, batch.lengths))]
        device = batch.wave.device
        frames = torch.tensor([len(tokens.ssl) for tokens in rows], device=device)
        ssl, acoustic = (
            pad_sequence(kind, batch_first=True).to(device).long()
            for kind in ([tokens.ssl for tokens in rows], [tokens.acoustic for tokens in rows])
        )
        return ssl, acoustic, frames

    def _row(self, batch: SpeechBatch, row: int, of: tuple[int, int]) -> _Tokens:
        name, wave = batch.ids[row], batch.wave[row, : of[0]]
        known = self._known.get(name) or self._known.setdefault(name, self._computed(wave, of))
        if known.of != of:
            raise UserError(
                f"utterance {name!r} came twice with different audio, but its tokens are kept in memory: give whole "
                "utterances (PlainRecipe without a length), or set model.cache_tokens to false"
            )
        return known

    def _computed(self, wave: Tensor, of: tuple[int, int]) -> _Tokens:
        ssl, acoustic, _ = self._encode(wave[None], torch.tensor([len(wave)], device=wave.device))
        return _Tokens(ssl[0].short().cpu(), acoustic[0].short().cpu(), of)

    def _encode(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ssl, frames = self.tokenizer.ssl_tokens(wave, lengths)
        # The codec gives a frame more than the SSL front end, whose last window would reach past the end.
        acoustic = self.tokenizer.acoustic_tokens(wave, lengths)[:, : ssl.shape[1]]
        return ssl, acoustic, frames


def _fingerprints(wave: Tensor, lengths: Tensor) -> list[tuple[int, int]]:
    """Return what tells a crop of an utterance from another, of waves (B, S): its length, and the sum of its bits.

    Unlike a sum of floats it is the same in whatever order a device adds up. A GPU is waited for once.
    """
    inside = torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]
    sums = wave.float().contiguous().view(torch.int32).masked_fill(~inside, 0).sum(dim=1)
    return [(length, total) for length, total in torch.stack([lengths, sums], dim=1).tolist()]


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
