"""A fingerprint changes with everything that tokens follow from, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metis_lightning.tokens.tokenizer import fingerprints
from metis_lightning.weights.build import load_tokenizer

KINDS = ("features", "ssl", "acoustic")


def changed(tiny_bundle: Path, name: str) -> set[str]:
    """The kinds whose fingerprint is another once one number of a weight is."""
    tokenizer = load_tokenizer(tiny_bundle)
    before = fingerprints(tokenizer, KINDS)
    with torch.no_grad():
        tokenizer.state_dict()[name].view(-1)[0] += 1e-3
    after = fingerprints(tokenizer, KINDS)
    return {kind for kind in KINDS if before[kind] != after[kind]}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("features.mean", {"features", "ssl"}),
        ("semantic_codec.encoder.1.weight", {"ssl"}),
        ("semantic_codec.quantizer.quantizers.0.codebook.weight", {"ssl"}),
        ("semantic_codec.decoder.1.weight", set()),
        ("acoustic_codec.encoder.block.0.weight_g", {"acoustic"}),
        ("acoustic_codec.decoder.quantizer.quantizers.1.codebook.weight", {"acoustic"}),
        ("acoustic_codec.decoder.model.head.out.weight", set()),
    ],
)
def test_weights_that_count(tiny_bundle: Path, name: str, kinds: set[str]) -> None:
    assert changed(tiny_bundle, name) == kinds


def test_equal_tokenizers_have_equal_fingerprints(tiny_bundle: Path) -> None:
    first, second = (fingerprints(load_tokenizer(tiny_bundle), KINDS) for _ in range(2))
    assert first == second
    assert len(set(first.values())) == 3
    assert all(len(value) == 64 for value in first.values())


def test_an_unknown_kind_is_a_mistake(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="unknown kinds of tokens: lips"):
        fingerprints(load_tokenizer(tiny_bundle), ["lips"])
