"""Training of the acoustic codec on fixed-length crops.

Reconstruction, codebook, commitment and, where wanted, adversarial and feature-matching terms of MaskGCT (2409.00750,
section 3.2.4). For short runs there are two helps of our own: gains of the encoder from data, and a linear map that
reads a mel spectrogram off the latents, which teaches the encoder sooner than the way through the decoder does.
"""

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
from metis_lightning.tasks.codec_losses import AdversarialConfig, Adversary, LatentMel, MelDistances
from metis_lightning.tasks.optimization import parameter_groups
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig, ResidualUnit
from metis_lightning.tokens.codec_layers import WeightNormConv1d
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import load_weights, plain_config
from metis_lightning.weights.export import bundle_or_checkpoint_part

RESIDUAL_DEVIATION = 0.3


@torch.no_grad()
def init_from_data(module: nn.Module, x: Tensor) -> None:
    """Scale every weight-normalised convolution of `module` so that its output on x has unit deviation.

    This is the data-dependent initialisation of Salimans & Kingma (1602.07868, section 3), for the gains alone. The
    last convolution of a residual unit gets 0.3, so that depth does not add up. Speech is quiet, and each convolution's
    default makes it quieter: without this a deep encoder begins as a nearly linear map and learns slowly.
    """
    branches = {unit.block[-1] for unit in module.modules() if isinstance(unit, ResidualUnit)}

    def rescale(conv: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(conv, WeightNormConv1d)
        gain = (RESIDUAL_DEVIATION if conv in branches else 1.0) / output.std().clamp(min=1e-5)
        conv.weight_g.mul_(gain)
        conv.bias.mul_(gain)
        return output * gain

    hooks = [m.register_forward_hook(rescale) for m in module.modules() if isinstance(m, WeightNormConv1d)]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()


ADVERSARY = "adversary."
"""Prefix of the discriminators' weights in the module's state."""


class AcousticCodecModule(QuantizerModule):
    """Trains `AcousticCodec` by reconstruction, and against discriminators if `adversarial` is given.

    With discriminators there are two optimizers, so the optimization is manual, for which see `AdversarialConfig`;
    steps (`max_steps`, checkpoint intervals, `global_step`) are the codec's all the same. Validation is of the
    reconstruction alone, so that runs with and without discriminators compare. Precision is float32 or bfloat16; codes
    and losses are computed in float32 either way.

    Args:
        codec: sizes of the codec.
        start_from: a bundle, or a checkpoint of this module, whose codec is where training starts; its sizes are those
            of `codec`. In this way a run without discriminators is continued with them.
        decoder_only: train what comes after the quantizer alone, so that tokens keep their meaning for models that are
            trained on them already.
        adversarial: the discriminators and their part in the loss; None trains without.
        mel_weight, loudness_weight: factors of the distances of mel spectrograms, see `MelDistances`.
        codebook_weight, commitment_weight: factors of the quantizer's terms.
        latent_mel_weight: factor of the error of a mel spectrogram read linearly off the latents, see `LatentMel`; 0
            leaves it out. The map is not a part of the codec.
        init_from_data: set the encoder's gains on the first training batch.
        continuous_steps: steps at the start in which the latents go to the decoder unquantised, so that short runs do
            not begin with a collapsed codebook.
        compile: compile the codec with torch.compile, for crops of one length.
        kwargs: those of `TrainableModule`.
    """

    def __init__(
        self,
        codec: AcousticCodecConfig = AcousticCodecConfig(),  # noqa: B008  frozen
        start_from: str | None = None,
        decoder_only: bool = False,
        adversarial: AdversarialConfig | None = None,
        mel_weight: float = 10.0,
        loudness_weight: float = 0.0,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        latent_mel_weight: float = 0.0,
        init_from_data: bool = False,
        continuous_steps: int = 0,
        compile: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.codec = AcousticCodec(codec)
        if start_from is not None:
            load_weights(self.codec, bundle_or_checkpoint_part(start_from, "acoustic_codec").tensors, start_from)
        self.decoder_only = decoder_only
        if decoder_only:
            self.codec.encoder.requires_grad_(False)
            self.codec.decoder.quantizer.requires_grad_(False)
        is_adversarial = adversarial is not None and (adversarial.adversarial_weight or adversarial.feature_weight)
        self.adversary = Adversary(adversarial) if adversarial is not None and is_adversarial else None
        self.automatic_optimization = self.adversary is None
        self.restarts = None if decoder_only else CodebookRestarts(self.codec.decoder.quantizer, since=continuous_steps)
        self.latent_mel = LatentMel(codec.latent_dim, codec.hop_size) if latent_mel_weight else None
        self.init_from_data, self.continuous_steps = init_from_data and start_from is None, continuous_steps
        # Neither the quantizer nor the discriminators need have a part in the first steps.
        adversary_waits = self.adversary is not None and self.adversary.config.from_step > 0
        self.has_unused_parameters = continuous_steps > 0 or adversary_waits
        if compile:
            self.codec.encoder.compile()
            self.codec.decoder.model.compile()
        self.distances = MelDistances()
        self.weights = {"mel": mel_weight, "loudness": loudness_weight, "latent_mel": latent_mel_weight}
        self.weights |= {"codebook": codebook_weight, "commitment": commitment_weight}
        if self.adversary is not None:
            self.weights |= self.adversary.weights

    def on_fit_start(self) -> None:
        """Set the encoder's gains, unless a checkpoint brought them."""
        # Lightning asks for copies of the weights from before each step, which nothing here needs.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
        datamodule = getattr(self.trainer, "datamodule", None)
        if self.init_from_data and datamodule is not None:
            # Every process has batches of its own: all take the first one's, or their weights would differ.
            wave = self.trainer.strategy.broadcast(self._whole_frames(next(iter(datamodule.train_dataloader()))))
            init_from_data(self.codec.encoder, wave[:, None].to(self.device))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another codec, or of a run with discriminators where this one has none, or vice versa.

        Raises:
            UserError: saying what differs.
        """
        if any(name.startswith(ADVERSARY) for name in checkpoint["state_dict"]) == self.automatic_optimization:
            raise UserError(
                "the checkpoint is of a run with discriminators or this run has them, but not both; to take the codec "
                "alone from it, give its path as --model.start_from instead of --ckpt_path"
            )
        super().on_load_checkpoint(checkpoint)
        self.init_from_data = False

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
        self.move_codes_after(optimizers[0])
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
            self.clip_gradients(optimizer, limits[self.trainer.optimizers.index(optimizer)], "norm")

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
        if self.training and self.restarts is not None:
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
        if self.latent_mel is not None:
            terms["latent_mel"] = self.latent_mel(latents, wave)
        if self.training and self.adversary is not None and self.global_step >= self.adversary.config.from_step:
            terms |= self.adversary(reconstructed, wave)
        return terms

    def _weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = torch.stack([weight * terms[name] for name, weight in self.weights.items() if name in terms]).sum()
        return {"loss": loss, **terms}
