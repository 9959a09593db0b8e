"""Training of the acoustic codec on fixed-length crops.

Reconstruction, codebook and commitment terms of MaskGCT (2409.00750, section 3.2.4); the adversarial terms are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.codebooks import perplexity
from metis_lightning.tasks.schedule import WarmupInverseSqrt
from metis_lightning.tasks.spectral_loss import CompressedSpectrumLoss, MultiResolutionMelLoss
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.types import SpeechBatch


class AcousticCodecModule(TrainableModule):
    """Trains `AcousticCodec` by reconstruction.

    Args:
        codec: sizes of the codec.
        mel_weight, spectrum_weight, codebook_weight, commitment_weight: factors of the terms of the loss.
        compile: compile the codec with torch.compile, for crops of one length.
        optimizer, lr_scheduler: built over the trainable parameters.
    """

    def __init__(
        self,
        codec: AcousticCodecConfig = AcousticCodecConfig(),  # noqa: B008  frozen
        mel_weight: float = 10.0,
        spectrum_weight: float = 10.0,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        compile: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.codec = AcousticCodec(codec)
        if compile:
            self.codec.compile()
        self.mel_loss, self.spectrum_loss = MultiResolutionMelLoss(), CompressedSpectrumLoss()
        self.weights = {
            "mel": mel_weight,
            "spectrum": spectrum_weight,
            "codebook": codebook_weight,
            "commitment": commitment_weight,
        }

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the weighted sum and its terms, and the perplexity of the first codebook."""
        hop = self.codec.config.hop_size
        wave = batch.wave[:, : batch.wave.shape[1] // hop * hop]
        reconstructed, quantized = self.codec(wave)
        terms = {
            "mel": self.mel_loss(reconstructed, wave),
            "spectrum": self.spectrum_loss(reconstructed, wave),
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
        }
        loss = sum((self.weights[name] * term for name, term in terms.items()), start=torch.zeros((), device=wave.device))
        return {"loss": loss, **terms, "perplexity": perplexity(quantized.codes[0], self.codec.config.codebook_size)}
