"""Training of the acoustic codec on fixed-length crops, with the terms of MaskGCT (2409.00750, section 3.2.4)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from metis_lightning.errors import UserError
from metis_lightning.tasks.base import PartOfBundle
from metis_lightning.tasks.codebooks import CodebookRestarts, QuantizerModule, perplexity
from metis_lightning.tasks.codec_losses import AdversarialConfig, Adversary, SpectralDistances
from metis_lightning.tasks.optimization import parameter_groups
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import plain_config
from metis_lightning.weights.start import load_start

# Prefix of the discriminators' weights in the module's state.
ADVERSARY = "adversary."


class AcousticCodecModule(QuantizerModule):
    """Trains `AcousticCodec` by reconstruction, and against discriminators if `adversarial` is given.

    With discriminators there are two optimizers, so the optimization is manual; steps (`max_steps`, checkpoints,
    `global_step`) are the codec's all the same. Validation is of the reconstruction alone, so that all runs compare.
    Precision is float32 or bfloat16; codes and losses are computed in float32 either way.

    Args:
        codec: sizes of the codec.
        start_from: a bundle, or a checkpoint with discriminators or without, whose codec training starts at.
        decoder_only: train what comes after the quantizer alone, so that tokens keep their meaning for other models.
        adversarial: the discriminators and their part in the loss; None trains without.
        mel_weight, loudness_weight, linear_weight: factors of the distances of spectrograms, see `SpectralDistances`.
        codebook_weight, commitment_weight: factors of the quantizer's terms.
        continuous_steps: steps at the start without quantization, so that short runs do not collapse the codebook.
        compile: compile the codec with torch.compile, for crops of one length.
    """

    def __init__(
        self,
        codec: AcousticCodecConfig = AcousticCodecConfig(),  # noqa: B008  frozen
        start_from: str | None = None,
        decoder_only: bool = False,
        adversarial: AdversarialConfig | None = None,
        mel_weight: float = 10.0,
        loudness_weight: float = 0.0,
        linear_weight: float = 0.0,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        continuous_steps: int = 0,
        compile: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.codec, self.hop = AcousticCodec(codec), codec.hop_size
        self._origin: Mapping[str, Any] = {}
        if start_from is not None:
            self._origin = load_start(self.codec, start_from, "acoustic_codec").origin
        self.decoder_only = decoder_only
        if decoder_only:
            self.codec.encoder.requires_grad_(False)
            self.codec.decoder.quantizer.requires_grad_(False)
        self.adversary: Adversary | None = None
        if adversarial is not None and (adversarial.adversarial_weight or adversarial.feature_weight):
            self.adversary = Adversary(adversarial)
        self.automatic_optimization = self.adversary is None
        self.restarts = None if decoder_only else CodebookRestarts(self.codec.decoder.quantizer, since=continuous_steps)
        self.continuous_steps = continuous_steps
        # Neither the quantizer nor the discriminators need have a part in the first steps.
        adversary_waits = self.adversary is not None and self.adversary.config.from_step > 0
        self.has_unused_parameters = continuous_steps > 0 or adversary_waits
        if compile:
            self.codec.encoder.compile()
            self.codec.decoder.model.compile()
        self.distances = SpectralDistances(linear=linear_weight > 0)
        self.weights = {"mel": mel_weight, "loudness": loudness_weight, "linear": linear_weight}
        self.weights |= {"codebook": codebook_weight, "commitment": commitment_weight}
        if self.adversary is not None:
            self.weights |= self.adversary.weights

    def on_fit_start(self) -> None:
        """Leave out a warning that is of no use here."""
        # Lightning asks for copies of the weights from before each step, which nothing here needs.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another codec, or where only one of the two runs has discriminators."""
        if any(name.startswith(ADVERSARY) for name in checkpoint["state_dict"]) == self.automatic_optimization:
            raise UserError(
                "the checkpoint is of a run with discriminators or this run has them, but not both; to take the codec "
                "alone from it, give its path as --model.start_from instead of --ckpt_path"
            )
        super().on_load_checkpoint(checkpoint)

    def trained(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return the codec's parameters, and the discriminators' if there are any."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        codec = [p for name, p in named if not name.startswith(ADVERSARY)]
        return (codec,) if self.adversary is None else (codec, list(self.adversary.parameters()))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the injected optimizers and schedules: the codec's, and the discriminators' if there are any."""
        if self.adversary is None:
            return super().configure_optimizers()
        other = self.adversary.config
        codec, discriminators = (parameter_groups(self, parameters) for parameters in self.trained())
        optimizers = [self._optimizer(codec), other.optimizer(discriminators)]
        return optimizers, [self._lr_scheduler(optimizers[0]), other.lr_scheduler(optimizers[1])]

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """Return the codec's loss of a batch and log all scalars; with discriminators, take the step too."""
        if self.adversary is None:
            return super().training_step(batch, batch_idx)
        scalars = self.losses(batch)
        self.log_scalars("train", scalars, batch)
        self.adversary.update(self, scalars["loss"], scalars.get("discriminator"))
        return scalars["loss"]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Limit the norm of the gradients of either side, after callbacks have seen them."""
        if self.adversary is not None:
            limits = (self.adversary.config.codec_clip, self.adversary.config.discriminator_clip)
            self.configure_gradient_clipping(optimizer, limits[self.trainer.optimizers.index(optimizer)], "norm")

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the codec."""
        return {"acoustic_codec": PartOfBundle(plain_config(self.codec.config), "codec.", self._origin)}

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the weighted sum and its terms, and the perplexity of the first codebook and of the last."""
        wave = batch.wave[:, : batch.wave.shape[1] // self.hop * self.hop]
        latents = self.codec.encoder(wave[:, None])
        terms, used = dict[str, Tensor](), dict[str, Tensor]()
        if not (self.training and self.global_step < self.continuous_steps):
            quantized = self.codec.decoder.quantizer(latents)
            if self.training and self.restarts is not None:
                self.restarts.observe(quantized, self.global_step)
            latents = quantized.latents
            terms = {"codebook": quantized.codebook_loss, "commitment": quantized.commitment_loss}
            size = self.codec.config.codebook_size
            ends = (("first", 0), ("last", -1))
            used = {f"perplexity_{name}": perplexity(quantized.codes[i], size) for name, i in ends}
        reconstructed = self.codec.decoder.model(latents)
        terms |= self.distances(reconstructed, wave)
        if self.training and self.adversary is not None and self.global_step >= self.adversary.config.from_step:
            terms |= self.adversary(reconstructed, wave)
        loss = torch.stack([weight * terms[name] for name, weight in self.weights.items() if name in terms]).sum()
        return {"loss": loss, **terms, **used}
