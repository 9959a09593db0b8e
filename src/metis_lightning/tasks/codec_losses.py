"""Losses of codec training: spectral distances, and the adversarial part with its discriminators.

The adversarial losses are least squares, as in HiFi-GAN (2010.05646, section 2.4) and the code of DAC and of Amphion.
All terms are means over the discriminators, so that the weights do not depend on how many there are.
Shape letters: B batch, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torchaudio
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from metis_lightning.models.discriminators import DiscriminatorConfig, DiscriminatorOutput, Discriminators
from metis_lightning.tasks.optimization import WarmupInverseSqrt
from metis_lightning.tokens.codec_layers import full_precision
from metis_lightning.types import WAVE_RATE

# Samples of a window at 24 kHz, and mel bands over it.
MEL_WINDOWS = ((256, 20), (512, 40), (1024, 80), (2048, 128))
FLOOR = 1e-5
# 69 dB below white noise of unit deviation: what is softer is not worth a phase.
LINEAR_FLOOR = 1e-2


class SpectralDistances(nn.Module):
    """Mean absolute distances of spectrograms.

    `mel`: natural logarithms of mel magnitudes over several window lengths (DAC, 2306.06546, section 3.4); quiet and
    loud frames count alike. `loudness`: the same magnitudes to the power 0.3; the harmonics' peaks, which are what is
    heard, count more. `linear`: natural logarithms of single bins, over the longest window. Wide mel bands add up what
    lies between harmonics, so only here does a decoder pay for humming at multiples of its frame rate.
    """

    def __init__(self, linear: bool = True) -> None:
        super().__init__()
        self.mels = nn.ModuleList(mel_spectrogram(window, window // 4, bins) for window, bins in MEL_WINDOWS)
        longest, _ = MEL_WINDOWS[-1]
        spectrogram = torchaudio.transforms.Spectrogram(longest, hop_length=longest // 4, power=1.0)
        self.linear = spectrogram if linear else None

    def forward(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the scalars `mel`, `loudness` and, unless it is left out, `linear` of two waveforms (B, S)."""
        with full_precision(predicted):
            predicted, target = predicted.float(), target.float()
            pairs = [(mel(predicted).clamp(min=FLOOR), mel(target).clamp(min=FLOOR)) for mel in self.mels]
            distances = {
                "mel": torch.stack([F.l1_loss(a.log(), b.log()) for a, b in pairs]).mean(),
                "loudness": torch.stack([F.l1_loss(loudness(a), loudness(b)) for a, b in pairs]).mean(),
            }
            if self.linear is not None:
                logs = [self.linear(wave).clamp(min=LINEAR_FLOOR).log() for wave in (predicted, target)]
                distances["linear"] = F.l1_loss(*logs)
            return distances


def mel_spectrogram(window: int, hop: int, num_mels: int) -> torchaudio.transforms.MelSpectrogram:
    """Return a transform to mel magnitudes (Slaney's scale and norm)."""
    return torchaudio.transforms.MelSpectrogram(
        WAVE_RATE, n_fft=window, hop_length=hop, n_mels=num_mels, power=1.0, norm="slaney", mel_scale="slaney"
    )


def loudness(magnitude: Tensor) -> Tensor:
    """Return positive magnitudes to the power 0.3: by Stevens' law, roughly, loudness grows so with the pressure."""
    return magnitude.pow(0.3)


@dataclass(frozen=True)
class AdversarialConfig:
    """How a codec is trained against discriminators; weights are MaskGCT's (2409.00750), limits those of DAC's code.

    adversarial_weight, feature_weight: factors of the two terms in the codec's loss; with both at 0 nothing is built.
    from_step: step of the codec at which the discriminators begin.
    codec_clip, discriminator_clip: largest norms of the gradients; Lightning's `gradient_clip_val`, which knows one
        optimizer only, must be null.
    optimizer, lr_scheduler: the discriminators'; the schedule counts their own steps.
    """

    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    adversarial_weight: float = 2.0
    feature_weight: float = 2.0
    from_step: int = 0
    codec_clip: float = 1000.0
    discriminator_clip: float = 10.0
    optimizer: OptimizerCallable = torch.optim.AdamW
    lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt


class Adversary(nn.Module):
    """Discriminators beside a codec."""

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.config, self.discriminators = config, Discriminators(config.discriminators)
        self.weights = {"adversarial": config.adversarial_weight, "feature": config.feature_weight}

    def forward(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Return scalars of reconstructions `fake` (B, S) of waves `real` (B, S); one backward pass serves both sides.

        `adversarial` and `feature` have gradients for `fake` alone, `discriminator` for the discriminators alone.
        """
        of_real, of_copy = self.discriminators(real), self.discriminators(fake.detach())
        # Gradients pass through without reaching the discriminators' parameters.
        self.discriminators.requires_grad_(False)
        of_fake = self.discriminators(fake)
        self.discriminators.requires_grad_(True)
        return {
            "adversarial": adversarial_loss(of_fake),
            "feature": feature_distance(of_fake, of_real),
            "discriminator": discriminator_loss(of_real, of_copy),
        }

    def update(self, module: LightningModule, codec_loss: Tensor, discriminator_loss: Tensor | None) -> None:
        """Take one step of a codec's module, and of the discriminators unless they wait; each has its own schedule."""
        losses = [codec_loss] if discriminator_loss is None else [codec_loss, discriminator_loss]
        optimizers = module.trainer.optimizers[: len(losses)]
        for optimizer in optimizers:
            optimizer.zero_grad()
        module.manual_backward(torch.stack(losses).sum())
        # Lightning counts steps that are taken through its wrappers: the codec's alone make up `global_step`.
        cast(list[LightningOptimizer], module.optimizers())[0].step()
        for optimizer in optimizers[1:]:
            module.trainer.strategy.optimizer_step(optimizer, closure=lambda: None)
        for scheduler in cast(list[LRScheduler], module.lr_schedulers())[: len(losses)]:
            scheduler.step()


def adversarial_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Return how far reconstructions are from being taken for real: 0 when all logits are 1."""
    return torch.stack([(1 - output.logits.float()).square().mean() for output in fake]).mean()


def discriminator_loss(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Return how far the discriminators are from 1 on real waves and from 0 on reconstructions."""
    pairs = zip(real, fake, strict=True)
    terms = [(1 - r.logits.float()).square().mean() + f.logits.float().square().mean() for r, f in pairs]
    return torch.stack(terms).mean()


def feature_distance(fake: Sequence[DiscriminatorOutput], real: Sequence[DiscriminatorOutput]) -> Tensor:
    """Return the mean absolute distance of hidden layers, summed over the layers of a discriminator."""
    pairs = [zip(f.features, r.features, strict=True) for f, r in zip(fake, real, strict=True)]
    distances = [torch.stack([F.l1_loss(a.float(), b.detach().float()) for a, b in layers]).sum() for layers in pairs]
    return torch.stack(distances).mean()
