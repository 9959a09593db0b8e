"""Training of the acoustic codec on fixed-length crops.

Reconstruction, codebook and commitment terms of MaskGCT (2409.00750, section 3.2.4), without its adversarial ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from metis_lightning.tasks.base import PartOfBundle, TrainableModule
from metis_lightning.tasks.codebooks import CodebookRestarts, perplexity
from metis_lightning.tasks.schedule import WarmupInverseSqrt
from metis_lightning.tasks.spectral_loss import CompressedSpectrumLoss, MultiResolutionMelLoss
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import plain_config


class AcousticCodecModule(TrainableModule):
    """Trains `AcousticCodec` by reconstruction.

    Args:
        codec: sizes of the codec.
        mel_weight, spectrum_weight, codebook_weight, commitment_weight: factors of the terms of the loss.
        continuous_steps: steps at the start in which the latents go to the decoder unquantised, so that short runs do
            not begin with a collapsed codebook.
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
        continuous_steps: int = 0,
        compile: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.codec = AcousticCodec(codec)
        self.restarts = CodebookRestarts(self.codec.decoder.quantizer)
        self.continuous_steps = continuous_steps
        if compile:
            self.codec.encoder.compile()
            self.codec.decoder.model.compile()
        self.mel_loss, self.spectrum_loss = MultiResolutionMelLoss(), CompressedSpectrumLoss()
        self.weights = {
            "mel": mel_weight,
            "spectrum": spectrum_weight,
            "codebook": codebook_weight,
            "commitment": commitment_weight,
        }

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the codec."""
        return {"acoustic_codec": PartOfBundle(plain_config(self.codec.config), "codec.")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the weighted sum and its terms, and the perplexity of the first codebook."""
        hop = self.codec.config.hop_size
        wave = batch.wave[:, : batch.wave.shape[1] // hop * hop]
        if self.training and self.global_step < self.continuous_steps:
            reconstructed = self.codec.decoder.model(self.codec.encoder(wave[:, None]))
            return self._weighted(self._reconstruction(reconstructed, wave))
        reconstructed, quantized = self.codec(wave)
        if self.training:
            self.restarts.observe(quantized, self.global_step)
        terms = {
            **self._reconstruction(reconstructed, wave),
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
        }
        size = self.codec.config.codebook_size
        used = {f"perplexity_{name}": perplexity(quantized.codes[i], size) for name, i in (("first", 0), ("last", -1))}
        return {**self._weighted(terms), **used}

    def _reconstruction(self, reconstructed: Tensor, wave: Tensor) -> dict[str, Tensor]:
        return {"mel": self.mel_loss(reconstructed, wave), "spectrum": self.spectrum_loss(reconstructed, wave)}

    def _weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss, **terms}
