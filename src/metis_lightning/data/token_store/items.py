"""Training items from a token store: their tokens are cut and joined as their wave is.

Shape letters: T token frames (50 a second), Q quantizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.recipes.recipe import Segment, SpeechItem
from metis_lightning.data.token_store.store import ACOUSTIC, SSL, TokenStore
from metis_lightning.errors import UserError
from metis_lightning.types import HOP


class LengthOnlyCorpus(SpeechCorpus):
    """A corpus for recipes that need no sound beside the tokens: its waves have their length and are silent."""

    def __init__(self, corpus: SpeechCorpus, store: TokenStore) -> None:
        super().__init__(corpus.utterances, cache=False)
        self._store = store

    def wave(self, index: int) -> Tensor:
        """Return silence (S,) of the utterance's length, which takes no memory; audio is not read."""
        utterance = self.utterances[index]
        samples = self._store.samples(utterance, partial(self.samples, index))
        return torch.zeros(1).expand(samples)


def attach_tokens(item: SpeechItem, corpus: SpeechCorpus, stores: Mapping[str, TokenStore]) -> SpeechItem:
    """Return an item with the tokens of its wave; a UserError if its `pieces` or a store, by kind, lack them.

    Tokens are those of whole recordings as they are: a crop takes the frames of its place, and what a recipe does to
    the level of a wave is not done to its tokens. In both, training on audio differs a little at the edges.
    """
    if not item.pieces:
        raise UserError(
            f"utterance {item.id!r}: the recipe does not say of which `pieces` its wave is made, so that no stored "
            "tokens fit it; leave data.tokens out to train on audio"
        )
    tokens = {}
    for kind, store in stores.items():
        recorded = [store.read(corpus.utterances[p.index], partial(corpus.samples, p.index)) for p in item.pieces]
        parts = [_cut(values, piece) for values, piece in zip(recorded, item.pieces, strict=True)]
        # Stored in fewer bits than an embedding takes.
        tokens[kind] = torch.cat(parts).long()
    return replace(item, ssl_tokens=tokens.get(SSL), acoustic_tokens=tokens.get(ACOUSTIC))


def _cut(values: Tensor, piece: Segment) -> Tensor:
    """Return the frames of a piece (T, …) of a recording's, one for each of its hops."""
    start, count = round(piece.start / HOP), piece.samples // HOP
    frames = values[start : start + count]
    # The last hops have no SSL frame, as the window would reach past the end: they repeat the frame before.
    if not len(frames):
        frames = values[-1:] if len(values) else values.new_zeros((1, *values.shape[1:]))
    return torch.cat([frames, frames[-1:].expand(max(0, count - len(frames)), *frames.shape[1:])])[:count]
