"""Audio players and mel images of fixed validation items in TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torchaudio
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.pipeline import SETTINGS, Metis, Request
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import WAVE_RATE, SpeechBatch
from metis_lightning.weights.build import load_stage2
from metis_lightning.weights.bundle import bundle_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class SpeechSamples(Callback):
    """After a validation, logs source, target and generated speech of its first items, for tasks with a source.

    Source and target are logged once. The module must have a `task`, a `tokenizer` and a stage-1 `model`.

    Args:
        bundle: where stage 2 comes from.
        count: items.
        every_n_validations: how often.
    """

    def __init__(self, bundle: str = "nano", count: int = 3, every_n_validations: int = 1) -> None:
        self.bundle, self.count, self.every = bundle, count, every_n_validations
        self._items: list[tuple[str, Tensor, Tensor, Tensor]] = []
        self._validations = 0
        self._stage2: tuple[SemanticToAcoustic, SemanticToAcoustic] | None = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: SpeechBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first items of the first validation."""
        if self._validations or batch.source is None or batch.prompt_lengths is None:
            return
        for row in range(min(self.count - len(self._items), len(batch.ids))):
            start, end = int(batch.prompt_lengths[row]), int(batch.lengths[row])
            self._items.append(
                (
                    batch.ids[row],
                    batch.wave[row, :start].cpu(),
                    batch.source[row, start:end].cpu(),
                    batch.wave[row, start:end].cpu(),
                )
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generate and log, on the first process."""
        self._validations += 1
        logger = next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
        if logger is None or not trainer.is_global_zero or (self._validations - 1) % self.every:
            return
        writer, step = logger.experiment, trainer.global_step
        metis = self._pipeline(pl_module)
        (task,) = metis.stage1
        for name, prompt, source, target in self._items:
            if self._validations == 1:
                log_speech(writer, f"{name}/source", source, step)
                log_speech(writer, f"{name}/target", target, step)
            request = Request(task, len(source), prompt if len(prompt) else None, source)
            generated = metis.generate(request, 0, SETTINGS[task])
            log_speech(writer, f"{name}/generated", generated.wave, step)

    def _pipeline(self, module: LightningModule) -> Metis:
        model, tokenizer = getattr(module, "model", None), getattr(module, "tokenizer", None)
        task = getattr(module, "task", None)
        if task not in SETTINGS or not isinstance(model, Stage1) or not isinstance(tokenizer, SpeechTokenizer):
            raise UserError(
                f"SpeechSamples: {type(module).__name__} has no stage-1 `model` with a `tokenizer` for one of the "
                f"tasks {', '.join(SETTINGS)}"
            )
        if self._stage2 is None:
            self._stage2 = load_stage2(bundle_folder(self.bundle))
        first, full = (stage.to(module.device) for stage in self._stage2)
        return Metis(tokenizer, {task: model}, (first, full))


def log_speech(writer: SummaryWriter, tag: str, wave: Tensor, step: int) -> None:
    """Log a waveform (S,) at 24 kHz as an audio player and as a log-mel image."""
    writer.add_audio(tag, wave.clamp(-1, 1)[None], step, sample_rate=WAVE_RATE)
    writer.add_image(f"{tag}_mel", mel_image(wave), step)


def mel_image(wave: Tensor) -> Tensor:
    """Return an image (3, 160, T) in [0, 1] of a waveform (S,) at 24 kHz: 80 dB of log-mel, low frequencies below."""
    from matplotlib import colormaps

    mel = torchaudio.transforms.MelSpectrogram(WAVE_RATE, n_fft=1024, hop_length=240, n_mels=80)(wave)
    decibels = 10 * mel.clamp(min=1e-10).log10()
    shades = ((decibels - decibels.max() + 80) / 80).clamp(0, 1).flip(0).repeat_interleave(2, dim=0)
    return torch.from_numpy(colormaps["magma"](shades.numpy())[..., :3]).permute(2, 0, 1).float()
