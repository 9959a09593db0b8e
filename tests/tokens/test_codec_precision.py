"""Codes and losses of codecs in training: the same in mixed precision, and those of the released quantizer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from metis_lightning.models.discriminators import DiscriminatorOutput
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.codec_losses import (
    SpectralDistances,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.tokens.acoustic_codec import AcousticCodec
from metis_lightning.tokens.codec_layers import FactorizedVectorQuantizer, Quantized, ResidualVectorQuantizer
from metis_lightning.tokens.semantic_codec import SemanticCodec
from one_batch import changing_batch
from tiny import ACOUSTIC, SEMANTIC


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def acoustic(x: Tensor) -> Quantized:
    return AcousticCodec(ACOUSTIC)(x[:, :9600])[1]


def semantic(x: Tensor) -> Quantized:
    return SemanticCodec(SEMANTIC)(torch.randn(2, 200, 160))[1]


def stack(x: Tensor) -> Quantized:
    return ResidualVectorQuantizer(64, 12, 1024, 8)(torch.randn(2, 64, 200))


def alone(x: Tensor) -> Quantized:
    return FactorizedVectorQuantizer(64, 1024, 8)(torch.randn(2, 64, 200))


def half_precision_latents(x: Tensor) -> Quantized:
    return ResidualVectorQuantizer(64, 12, 1024, 8)(torch.randn(2, 64, 200).bfloat16())


@pytest.mark.parametrize("make", [acoustic, semantic, stack, alone, half_precision_latents])
def test_codes_in_mixed_precision_are_those_without(make: Callable[[Tensor], Quantized]) -> None:
    wave = changing_batch().wave
    exact = make(wave)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = make(wave)
    assert len(exact.codes.unique()) > 5
    assert torch.equal(exact.codes, mixed.codes)
    assert torch.equal(exact.codebook_loss, mixed.codebook_loss)
    assert mixed.codebook_loss.dtype == mixed.latents.dtype == torch.float32


@pytest.mark.parametrize("make", [lambda: AcousticCodecModule(ACOUSTIC), lambda: SemanticCodecModule(SEMANTIC)])
def test_a_step_of_training_counts_the_codes_of_inference(
    make: Callable[[], AcousticCodecModule | SemanticCodecModule],
) -> None:
    module = make().eval()
    exact = module.losses(changing_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module.losses(changing_batch())
    for name in exact:
        if name.startswith(("perplexity", "codebook", "commitment")):
            assert torch.equal(exact[name], mixed[name]), name
        assert mixed[name].dtype == torch.float32, name


def test_losses_of_codecs_are_float32_in_mixed_precision() -> None:
    wave = changing_batch().wave
    distances = SpectralDistances()
    logits = [torch.randn(2, 500).bfloat16() for _ in range(4)]
    judged = [DiscriminatorOutput(each, (torch.randn(2, 3, 40, 5).bfloat16(),)) for each in logits]

    def values() -> list[Tensor]:
        spectral = distances(0.9 * wave, wave)
        sides = (judged[:2], judged[2:])
        judgements = (adversarial_loss(judged), discriminator_loss(*sides), feature_distance(*sides))
        return [*spectral.values(), *judgements]

    exact = values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = values()
    assert all(value.dtype == torch.float32 for value in mixed)
    assert all(torch.equal(first, second) for first, second in zip(exact, mixed, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_losses_are_those_of_the_released_quantizer(dropout: float) -> None:
    """By hand in float64: the rows' errors at the stages that they use, a mean over all rows, a sum over stages."""
    rvq = ResidualVectorQuantizer(16, 5, 32, 4, quantizer_dropout=dropout)
    latents = torch.randn(6, 16, 20)
    with torch.no_grad():
        quantized = rvq.train()(latents)
        outputs = torch.stack([stage.decode(codes) for stage, codes in zip(rvq.stages, quantized.codes, strict=True)])
        sums = outputs.cumsum(dim=0)
    used = [int((sums[:, row] - quantized.latents[row]).abs().amax(dim=(1, 2)).argmin()) + 1 for row in range(6)]
    free = int(6 * dropout)
    assert all(count == 5 for count in used[free:])
    assert free == 0 or any(count < 5 for count in used[:free])
    expected = 0.0
    for stage, (codes, encodings) in enumerate(zip(quantized.codes, quantized.encodings, strict=True)):
        codebook = rvq.stages[stage].codebook.weight.detach().double().numpy()
        chosen = codebook[codes.numpy()].transpose(0, 2, 1)
        errors = np.square(chosen - encodings.double().numpy()).mean(axis=(1, 2))
        expected += sum(error for row, error in enumerate(errors) if stage < used[row]) / 6
    assert float(quantized.codebook_loss) == pytest.approx(expected, rel=1e-5)
    assert float(quantized.commitment_loss) == pytest.approx(expected, rel=1e-5)


def test_a_row_pulls_on_no_stage_that_it_does_not_use() -> None:
    rvq = ResidualVectorQuantizer(16, 5, 32, 4, quantizer_dropout=1.0)
    quantized = rvq.train()(torch.randn(1, 16, 20))
    (quantized.codebook_loss + quantized.commitment_loss).backward()
    moved = [stage.codebook.weight.grad is not None and bool(stage.codebook.weight.grad.any()) for stage in rvq.stages]
    assert moved == sorted(moved, reverse=True)
    assert not all(moved)
