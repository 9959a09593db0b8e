"""The adversarial part of codec training: discriminators, what they ask of the codec, and their own loss.

Least squares, as in HiFi-GAN (2010.05646, section 2.4) and the released code of DAC and of Amphion's codec losses; the
paper of DAC says hinge, MaskGCT's does not say. All terms are means over the discriminators, so that the weights do not
depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from metis_lightning.models.discriminators import DiscriminatorConfig, DiscriminatorOutput, Discriminators
from metis_lightning.tasks.optimization import WarmupInverseSqrt


@dataclass(frozen=True)
class AdversarialConfig:
    """How a codec is trained against discriminators; weights are MaskGCT's (2409.00750), limits those of DAC's code.

    adversarial_weight, feature_weight: factors of the two terms in the codec's loss; with both at 0 nothing is built.
    from_step: step of the codec at which the discriminators begin.
    codec_clip, discriminator_clip: largest norms of the gradients. They stand here because Lightning's
        `gradient_clip_val` knows one optimizer only; it must be null.
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

    @property
    def is_on(self) -> bool:
        """Whether there is anything for discriminators to do."""
        return self.adversarial_weight != 0 or self.feature_weight != 0


class Adversary(nn.Module):
    """Discriminators beside a codec."""

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.config = config
        self.discriminators = Discriminators(config.discriminators)
        self.weights = {"adversarial": config.adversarial_weight, "feature": config.feature_weight}

    def forward(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Return scalars of a batch of reconstructions `fake` (B, S) of waves `real` (B, S).

        `adversarial` and `feature` belong to the codec's loss; their gradients reach `fake` alone. `discriminator` is
        the discriminators' loss; its gradients reach them alone. So one backward pass over the sum serves both sides.
        """
        of_real = self.discriminators(real)
        of_copy = self.discriminators(fake.detach())
        with frozen(self.discriminators):
            of_fake = self.discriminators(fake)
        return {
            "adversarial": adversarial_loss(of_fake),
            "feature": feature_distance(of_fake, of_real),
            "discriminator": discriminator_loss(of_real, of_copy),
        }

    def update(self, module: LightningModule, codec_loss: Tensor, discriminator_loss: Tensor | None) -> None:
        """Take one step of a codec's module, and of the discriminators unless they rest.

        The module has two optimizers, its codec's and the discriminators', each with a schedule; it limits gradients
        itself before either takes its step.
        """
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


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without reaching its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def adversarial_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Return how far reconstructions are from being taken for real: 0 when all logits are 1."""
    return torch.stack([(1 - judged.logits.float()).square().mean() for judged in fake]).mean()


def discriminator_loss(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Return how far the discriminators are from 1 on real waves and from 0 on reconstructions."""
    pairs = zip(real, fake, strict=True)
    terms = [(1 - r.logits.float()).square().mean() + f.logits.float().square().mean() for r, f in pairs]
    return torch.stack(terms).mean()


def feature_distance(fake: Sequence[DiscriminatorOutput], real: Sequence[DiscriminatorOutput]) -> Tensor:
    """Return the mean absolute distance of hidden layers, summed over the layers of a discriminator."""
    return torch.stack(
        [
            torch.stack(
                [F.l1_loss(a.float(), b.detach().float()) for a, b in zip(f.features, r.features, strict=True)]
            ).sum()
            for f, r in zip(fake, real, strict=True)
        ]
    ).mean()
