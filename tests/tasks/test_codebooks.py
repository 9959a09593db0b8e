"""Perplexity of known distributions, and unused codes that find a place."""

from __future__ import annotations

import pytest
import torch

from metis_lightning.tasks.codebooks import CodebookRestarts, perplexity
from metis_lightning.tokens.quantize import ResidualVectorQuantizer


def test_perplexity_is_the_number_of_codes_in_effective_use() -> None:
    assert float(perplexity(torch.arange(8), 16)) == pytest.approx(8)
    assert float(perplexity(torch.zeros(5, dtype=torch.long), 16)) == pytest.approx(1)


def test_unused_codes_move_onto_encodings_and_used_ones_stay() -> None:
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(8, 2, 64, 4)
    latents = torch.randn(2, 8, 40)
    quantized = rvq(latents)
    before = [stage.codebook.weight.clone() for stage in rvq.stages]
    restarts = CodebookRestarts(rvq, every=10, duration=100)
    restarts.observe(quantized, step=3)
    assert all(torch.equal(stage.codebook.weight, old) for stage, old in zip(rvq.stages, before, strict=True))
    restarts.observe(quantized, step=10)
    for stage, old, codes, encodings in zip(rvq.stages, before, quantized.codes, quantized.encodings, strict=True):
        used = torch.bincount(codes.flatten(), minlength=64) > 0
        assert torch.equal(stage.codebook.weight[used], old[used])
        places = encodings.transpose(1, 2).flatten(0, 1)
        distance = torch.cdist(stage.codebook.weight[~used], places).amin(dim=1)
        torch.testing.assert_close(distance, torch.zeros_like(distance), rtol=0, atol=1e-3)
    assert perplexity(rvq(latents).codes[0], 64) > perplexity(quantized.codes[0], 64)


def test_nothing_moves_once_the_codebooks_are_to_settle() -> None:
    rvq = ResidualVectorQuantizer(8, 1, 64, 4)
    before = rvq.stages[0].codebook.weight.clone()
    CodebookRestarts(rvq, every=10, duration=100).observe(rvq(torch.randn(1, 8, 5)), step=100)
    assert torch.equal(rvq.stages[0].codebook.weight, before)
