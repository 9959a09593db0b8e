"""Training of the acoustic codec on fixed-length crops.

Reconstruction, codebook and commitment terms of MaskGCT (2409.00750, section 3.2.4), without its adversarial ones.
For short runs there are two helps of our own: gains of the encoder from data, and a linear map that reads a mel
spectrogram off the latents, which teaches the encoder sooner than the way through the decoder does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from metis_lightning.tasks.base import PartOfBundle, TrainableModule
from metis_lightning.tasks.codebooks import CodebookRestarts, perplexity
from metis_lightning.tasks.schedule import WarmupInverseSqrt
from metis_lightning.tasks.spectral_loss import LatentMel, MelDistances
from metis_lightning.tasks.weight_norm_init import init_from_data
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import plain_config


class AcousticCodecModule(TrainableModule):
    """Trains `AcousticCodec` by reconstruction.

    Args:
        codec: sizes of the codec.
        mel_weight, loudness_weight: factors of the distances of mel spectrograms, see `MelDistances`.
        codebook_weight, commitment_weight: factors of the quantizer's terms.
        latent_mel_weight: factor of the error of a mel spectrogram read linearly off the latents, see `LatentMel`; 0
            leaves it out. The map is not a part of the codec.
        init_from_data: set the encoder's gains on the first training batch.
        continuous_steps: steps at the start in which the latents go to the decoder unquantised, so that short runs do
            not begin with a collapsed codebook.
        compile: compile the codec with torch.compile, for crops of one length.
        optimizer, lr_scheduler: built over the trainable parameters.
    """

    def __init__(
        self,
        codec: AcousticCodecConfig = AcousticCodecConfig(),  # noqa: B008  frozen
        mel_weight: float = 10.0,
        loudness_weight: float = 0.0,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        latent_mel_weight: float = 0.0,
        init_from_data: bool = False,
        continuous_steps: int = 0,
        compile: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable = WarmupInverseSqrt,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.codec = AcousticCodec(codec)
        self.restarts = CodebookRestarts(self.codec.decoder.quantizer, since=continuous_steps)
        self.latent_mel = LatentMel(codec.latent_dim, codec.hop_size) if latent_mel_weight else None
        self.init_from_data, self.continuous_steps = init_from_data, continuous_steps
        if compile:
            self.codec.encoder.compile()
            self.codec.decoder.model.compile()
        self.distances = MelDistances()
        self.weights = {
            "mel": mel_weight,
            "loudness": loudness_weight,
            "codebook": codebook_weight,
            "commitment": commitment_weight,
            "latent_mel": latent_mel_weight,
        }

    def on_train_start(self) -> None:
        """Set the encoder's gains, unless a checkpoint brought them; the step is restored only by now."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if self.init_from_data and datamodule is not None and self.trainer.global_step == 0:
            # Every process has batches of its own: all take the first one's, or their weights would differ.
            wave = self.trainer.strategy.broadcast(self._whole_frames(next(iter(datamodule.train_dataloader()))))
            init_from_data(self.codec.encoder, wave[:, None].to(self.device))

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the codec."""
        return {"acoustic_codec": PartOfBundle(plain_config(self.codec.config), "codec.")}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the weighted sum and its terms, and the perplexity of the first codebook."""
        wave = self._whole_frames(batch)
        latents = self.codec.encoder(wave[:, None])
        if self.training and self.global_step < self.continuous_steps:
            return self._weighted(self._reconstruction(latents, wave))
        quantized = self.codec.decoder.quantizer(latents)
        if self.training:
            self.restarts.observe(quantized, self.global_step)
        terms = {
            **self._reconstruction(quantized.latents, wave),
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
        }
        size = self.codec.config.codebook_size
        used = {f"perplexity_{name}": perplexity(quantized.codes[i], size) for name, i in (("first", 0), ("last", -1))}
        return {**self._weighted(terms), **used}

    def _whole_frames(self, batch: SpeechBatch) -> Tensor:
        hop = self.codec.config.hop_size
        return batch.wave[:, : batch.wave.shape[1] // hop * hop]

    def _reconstruction(self, latents: Tensor, wave: Tensor) -> dict[str, Tensor]:
        reconstructed = self.codec.decoder.model(latents)
        terms = self.distances(reconstructed, wave)
        return terms if self.latent_mel is None else {**terms, "latent_mel": self.latent_mel(latents, wave)}

    def _weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss, **terms}
