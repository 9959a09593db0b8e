"""Samples of a few fixed validation items in the loggers: sounds and images of what a module makes of them.

Shape letters: S samples at 24 kHz, T frames, C feature width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import soundfile
import torch
import torchaudio
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.pipeline import Metis
from metis_lightning.sampling.request import Request
from metis_lightning.sampling.settings import Settings
from metis_lightning.tokens.acoustic_codec import AcousticCodec
from metis_lightning.tokens.semantic_codec import SemanticCodec
from metis_lightning.tokens.ssl_features import SSLFeatures
from metis_lightning.tokens.tokenizer import SpeechTokenizer, resampled_length
from metis_lightning.types import WAVE_RATE, SpeechBatch
from metis_lightning.weights.build import load_stage2, missing_stage2
from metis_lightning.weights.bundle import bundle_folder

Module = TypeVar("Module")
Values = Mapping[str, Tensor]


class SampleWriter(Protocol):
    """What TensorBoard's `SummaryWriter` has for sounds (1, S) and pictures (3, rows, columns)."""

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """Write a sound."""

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """Write a picture."""


@dataclass(frozen=True)
class WandbWriter:
    """Writes samples to Weights & Biases."""

    logger: WandbLogger

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """Log a sound, which can be played."""
        self.logger.log_audio(tag, [snd_tensor[0].numpy()], step=global_step, sample_rate=[sample_rate])

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """Log a picture."""
        self.logger.log_image(tag, [img_tensor.permute(1, 2, 0).numpy()], step=global_step)


@dataclass(frozen=True)
class MlflowWriter:
    """Writes samples to MLflow: sounds as files, by step."""

    logger: MLFlowLogger

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """Store a wav file."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / f"{global_step:07}.wav"
            soundfile.write(file, snd_tensor[0].numpy(), sample_rate)
            self.logger.experiment.log_artifact(self.logger.run_id, str(file), f"audio/{tag}")

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """Log a picture."""
        picture = (255 * img_tensor.permute(1, 2, 0)).byte().numpy()
        self.logger.experiment.log_image(self.logger.run_id, picture, key=tag, step=global_step)


def sample_writer(logger: Logger) -> SampleWriter | None:
    """Return what writes samples to a logger; None if it takes scalars alone."""
    if isinstance(logger, TensorBoardLogger):
        writer: SampleWriter = logger.experiment
        return writer
    if isinstance(logger, WandbLogger):
        return WandbWriter(logger)
    return MlflowWriter(logger) if isinstance(logger, MLFlowLogger) else None


class ValidationSamples(Callback, ABC):
    """Logs what a module makes of the first items of a validation, with the weights that validation sees.

    A subclass says what is shown, and how it is logged if it is no audio. What does not change is logged once.

    Args:
        count: items.
        every_n_validations: how often.
    """

    def __init__(self, count: int = 3, every_n_validations: int = 1) -> None:
        self.count, self.every = count, every_n_validations
        self._items: list[SpeechBatch] = []
        self._validations = 0

    @abstractmethod
    def values(self, module: LightningModule, item: SpeechBatch) -> tuple[Values, Values]:
        """Return by name what is fixed of an item, one row on the module's device, and what the module makes of it."""

    def write(self, writer: SampleWriter, tag: str, value: Tensor, step: int) -> None:
        """Write a waveform (S,) as an audio player and as a log-mel image."""
        writer.add_audio(tag, value.clamp(-1, 1)[None], step, sample_rate=WAVE_RATE)
        writer.add_image(f"{tag}_mel", mel_image(value), step)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: SpeechBatch, *_: object
    ) -> None:
        """Keep the first items of the first validation; none where tokens are stored and no audio is read."""
        if not self._validations and batch.wave.numel():
            rows = range(min(self.count - len(self._items), len(batch.ids)))
            self._items += [one_row(batch, row).to("cpu") for row in rows]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make and log, on the first process; callbacks that change the weights for a validation come back later."""
        if trainer.sanity_checking:
            self._items = []
            return
        self._validations += 1
        if self._validations == 1 and self.count and not self._items:
            rank_zero_warn(f"{type(self).__name__}: no samples, since stored tokens took the place of the audio")
        writers = [writer for logger in trainer.loggers if (writer := sample_writer(logger)) is not None]
        if not writers or not trainer.is_global_zero or (self._validations - 1) % self.every:
            return
        for item in (kept.to(pl_module.device) for kept in self._items):
            fixed, made = self.values(pl_module, item)
            for name, value in {**(fixed if self._validations == 1 else {}), **made}.items():
                for writer in writers:
                    self.write(writer, f"{item.ids[0]}/{name}", value.detach().cpu(), trainer.global_step)


class SpeechSamples(ValidationSamples):
    """Source, target and generated speech of a fine-tuning task, whose module has an acoustic codec.

    Args:
        bundle: where stage 2 comes from; its acoustic tokens must be those of the module's codec.
        count, every_n_validations: see `ValidationSamples`.
        settings: how both stages decode; None takes the released ones of the task.
    """

    def __init__(
        self, bundle: str = "nano", count: int = 3, every_n_validations: int = 1, settings: Settings | None = None
    ) -> None:
        super().__init__(count, every_n_validations)
        self.bundle, self.settings = bundle, settings
        self._stage2: tuple[SemanticToAcoustic, SemanticToAcoustic] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load stage 2, or say that it is still to be trained. A `UserError` if the module is not of a task."""
        if not callable(getattr(pl_module, "request", None)):
            raise UserError(f"SpeechSamples: {type(pl_module).__name__} answers no requests; take the callback out")
        folder, tokenizer = bundle_folder(self.bundle), part_of(pl_module, "tokenizer", SpeechTokenizer)
        missing = [*missing_stage2(folder), *(["acoustic_codec"] if tokenizer.acoustic_codec is None else [])]
        if missing:
            rank_zero_warn(f"SpeechSamples: no samples, for lack of {', '.join(missing)} in bundle {self.bundle!r}")
            self.count = 0
        elif trainer.is_global_zero:
            self._stage2 = load_stage2(folder)

    def values(self, module: LightningModule, item: SpeechBatch) -> tuple[Values, Values]:
        """Return the target, and the source if there is one; and the generated speech."""
        request = module.request(item)  # type: ignore[operator]
        assert self._stage2 is not None and isinstance(request, Request)
        fixed = {"target": item.wave[0, 0 if request.prompt is None else len(request.prompt) :]}
        if request.source is not None:
            fixed["source"] = request.source
        first, full = (stage.to(module.device) for stage in self._stage2)
        model, tokenizer = part_of(module, "model", Stage1), part_of(module, "tokenizer", SpeechTokenizer)
        # A few requests do not pay for captured graphs, and training wants the memory.
        metis = Metis(tokenizer, {request.task: model}, (first, full), graphs=False)
        speech = metis.generate([request], 0, self.settings)[0]
        # For the same reason stage 2 is on the device while it is at work only.
        for stage in self._stage2:
            stage.cpu()
        return fixed, {"generated": speech.wave}


class CodecSamples(ValidationSamples):
    """Speech and what an acoustic `codec` leaves of it."""

    def values(self, module: LightningModule, item: SpeechBatch) -> tuple[Values, Values]:
        """Return the original and the reconstruction."""
        codec = part_of(module, "codec", AcousticCodec)
        reconstructed = codec.decode(codec.encode(item.wave))[0, : item.wave.shape[1]]
        return {"target": item.wave[0]}, {"reconstructed": reconstructed}


class FeatureSamples(ValidationSamples):
    """Images of normalised SSL `features` and of what a semantic `codec` leaves of them; they are no audio."""

    def values(self, module: LightningModule, item: SpeechBatch) -> tuple[Values, Values]:
        """Return the features and their reconstruction (T, C)."""
        codec, resample = part_of(module, "codec", SemanticCodec), part_of(module, "resample", nn.Module)
        front_end = module.features
        assert isinstance(front_end, SSLFeatures)
        features = front_end(resample(item.wave), resampled_length(item.lengths, front_end.sample_rate))[0]
        return {"features": features[0]}, {"reconstructed": codec(features)[0][0]}

    def write(self, writer: SampleWriter, tag: str, value: Tensor, step: int) -> None:
        """Write features (T, C) within three deviations, low dimensions below."""
        writer.add_image(tag, coloured((value.T.flip(0) / 6 + 0.5).clamp(0, 1)), step)


def one_row(batch: SpeechBatch, row: int) -> SpeechBatch:
    """Return a row of a batch as a batch of one, without padding."""
    filled = {f.name: value for f in fields(batch) if (value := getattr(batch, f.name)) is not None}
    only = replace(batch, **{name: value[row : row + 1] for name, value in filled.items()})
    lengths = {"wave": only.lengths, "source": only.lengths, "features": only.feature_lengths}
    cut = {name: getattr(only, name)[:, : int(n)] for name, n in lengths.items() if name in filled and n is not None}
    return replace(only, **cut)


def part_of(module: LightningModule, name: str, expected: type[Module]) -> Module:
    """Return a module's attribute; a `UserError` if it has none of this type."""
    part = getattr(module, name, None)
    if not isinstance(part, expected):
        lack = f"it has no {expected.__name__} `{name}`"
        raise UserError(f"samples of {type(module).__name__}: {lack}; choose another callback")
    return part


def mel_image(wave: Tensor) -> Tensor:
    """Return an image (3, 160, T) in [0, 1] of a waveform (S,): 80 dB of log-mel, low frequencies below."""
    mel = torchaudio.transforms.MelSpectrogram(WAVE_RATE, n_fft=1024, hop_length=240, n_mels=80)(wave)
    decibels = 10 * mel.clamp(min=1e-10).log10()
    return coloured(((decibels - decibels.max() + 80) / 80).clamp(0, 1).flip(0).repeat_interleave(2, dim=0))


def coloured(shades: Tensor) -> Tensor:
    """Return an image (3, rows, columns) of values (rows, columns) in [0, 1]."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps["magma"](shades.numpy())[..., :3]).permute(2, 0, 1).float()
