"""Samples for each kind of module: of a task, of an acoustic codec, of a semantic codec.

Shape letters: T frames, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from metis_lightning.callbacks.tensorboard_media import coloured
from metis_lightning.callbacks.validation_samples import ValidationSamples, part_of
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
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.build import load_stage2
from metis_lightning.weights.bundle import bundle_folder, has_part

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class SpeechSamples(ValidationSamples):
    """Source, target and generated speech of a fine-tuning task.

    The module must have a `request`, a `tokenizer` with an acoustic codec, and a stage-1 `model`.

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
        """Load stage 2; where it is still to be trained, say that there will be no samples.

        Raises:
            UserError: if the module is not of a task, or there is no such bundle.
        """
        if not callable(getattr(pl_module, "request", None)):
            raise UserError(f"SpeechSamples: {type(pl_module).__name__} answers no requests; take the callback out")
        folder, tokenizer = bundle_folder(self.bundle), part_of(pl_module, "tokenizer", SpeechTokenizer)
        missing = [name for name in ("s2a_1layer", "s2a_full") if not has_part(folder, name)]
        missing += ["acoustic_codec"] if tokenizer.acoustic_codec is None else []
        if missing:
            rank_zero_warn(f"SpeechSamples: no samples, for lack of {', '.join(missing)} in bundle {self.bundle!r}")
            self.count = 0
        elif trainer.is_global_zero:
            self._stage2 = load_stage2(folder)

    def given(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return the target, and the source if there is one."""
        request = self._request(module, item)
        target = item.wave[0, 0 if request.prompt is None else len(request.prompt) :]
        return {"target": target} if request.source is None else {"source": request.source, "target": target}

    def made(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return the generated speech."""
        assert self._stage2 is not None
        request = self._request(module, item)
        first, full = (stage.to(module.device) for stage in self._stage2)
        model, tokenizer = part_of(module, "model", Stage1), part_of(module, "tokenizer", SpeechTokenizer)
        # A few requests do not pay for captured graphs, and training wants the memory.
        metis = Metis(tokenizer, {request.task: model}, (first, full), graphs=False)
        speech = metis.generate(request, 0, self.settings)
        for stage in self._stage2:
            stage.cpu()  # training needs the memory more
        return {"generated": speech.wave}

    def _request(self, module: LightningModule, item: SpeechBatch) -> Request:
        request = module.request(item)  # type: ignore[operator]
        assert isinstance(request, Request)
        return request


class CodecSamples(ValidationSamples):
    """Speech and what an acoustic `codec` leaves of it."""

    def given(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return the original."""
        return {"target": item.wave[0]}

    def made(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return the reconstruction."""
        codec = part_of(module, "codec", AcousticCodec)
        return {"reconstructed": codec.decode(codec.encode(item.wave))[0, : item.wave.shape[1]]}


class FeatureSamples(ValidationSamples):
    """Images of normalised SSL `features` and of what a semantic `codec` leaves of them; they are no audio."""

    def given(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return the features (T, C)."""
        features, resample = module.features, part_of(module, "resample", nn.Module)
        assert isinstance(features, SSLFeatures)
        lengths = resampled_length(item.lengths, features.sample_rate)
        return {"features": features(resample(item.wave), lengths)[0][0]}

    def made(self, module: LightningModule, item: SpeechBatch) -> Mapping[str, Tensor]:
        """Return the reconstruction (T, C)."""
        codec = part_of(module, "codec", SemanticCodec)
        return {"reconstructed": codec(self.given(module, item)["features"][None])[0][0]}

    def write(self, writer: SummaryWriter, tag: str, value: Tensor, step: int) -> None:
        """Write features (T, C) within three deviations, low dimensions below."""
        writer.add_image(tag, coloured((value.T.flip(0) / 6 + 0.5).clamp(0, 1)), step)
