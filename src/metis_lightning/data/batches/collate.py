"""Collation: items of a recipe padded and stacked into a batch.

Shape letters: B batch, S samples, T token frames (50 a second), Q quantizers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metis_lightning.data.recipes.recipe import SpeechItem
from metis_lightning.types import SpeechBatch


def collate(items: Sequence[SpeechItem]) -> SpeechBatch:
    """Pad items with zeros at the end and stack them.

    Items with and without a source or a prompt may meet: see `has_source` and `prompt_lengths` of `SpeechBatch`.

    Raises:
        ValueError: if some items have features or tokens and others have none, or a source differs in length.
    """
    if any(item.source is not None and item.source.shape != item.wave.shape for item in items):
        raise ValueError("a source must have the shape of its wave")
    has_source = torch.tensor([item.source is not None for item in items])
    has_prompts = any(item.prompt_length is not None for item in items)
    sources = [torch.zeros_like(item.wave) if item.source is None else item.source for item in items]
    prompt_lengths = [-1 if item.prompt_length is None else item.prompt_length for item in items]
    features = _pad([item.features for item in items], "features")
    feature_lengths = [len(item.features) for item in items if item.features is not None]
    # Where tokens stand for waves and no sound was read, a wave is one zero expanded to its length.
    is_silent = all(item.ssl_tokens is not None and item.wave.stride() == (0,) for item in items)
    waves = [item.wave[:0] if is_silent else item.wave for item in items]
    return SpeechBatch(
        ids=tuple(item.id for item in items),
        speakers=tuple(item.speaker for item in items),
        texts=tuple(item.text for item in items),
        wave=pad_sequence(waves, batch_first=True),
        lengths=torch.tensor([item.wave.numel() for item in items], dtype=torch.int64),
        source=pad_sequence(sources, batch_first=True) if has_source.any() else None,
        prompt_lengths=torch.tensor(prompt_lengths, dtype=torch.int64) if has_prompts else None,
        applied=tuple(item.applied for item in items) if has_source.any() else (),
        languages=tuple(item.language for item in items),
        scripts=tuple(item.script for item in items),
        has_source=has_source if has_source.any() and not has_source.all() else None,
        features=features,
        feature_lengths=torch.tensor(feature_lengths) if feature_lengths else None,
        ssl_tokens=_pad([item.ssl_tokens for item in items], "tokens"),
        acoustic_tokens=_pad([item.acoustic_tokens for item in items], "tokens"),
    )


def _pad(rows: Sequence[Tensor | None], name: str) -> Tensor | None:
    """Return rows (T, …) of every item as (B, T, …), zeros after their ends; None if no item has one."""
    present = [row for row in rows if row is not None]
    if present and len(present) != len(rows):
        raise ValueError(f"{len(present)} of {len(rows)} items of a batch have {name}; all or none must")
    return pad_sequence(present, batch_first=True) if present else None
