"""Training of the semantic codec on SSL features (MaskGCT, 2409.00750, section 3.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torchaudio
from torch import Tensor

from metis_lightning.tasks.base import PartOfBundle, frame_mask
from metis_lightning.tasks.codebooks import CodebookRestarts, QuantizerModule, perplexity
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.ssl_features import FilterbankFeatures, SSLFeatures
from metis_lightning.tokens.tokenizer import frozen_arithmetic, resampled_length
from metis_lightning.types import WAVE_RATE, SpeechBatch
from metis_lightning.weights.build import FEATURES, load_features, plain_config
from metis_lightning.weights.bundle import bundle_folder, read_index

STATISTICS_BATCHES = 50


class SemanticCodecModule(QuantizerModule):
    """Trains `SemanticCodec` by L1 reconstruction of SSL features, normalised by the first training batches.

    Args:
        codec: sizes of the codec; `hidden_size` is the features' width.
        features: the frozen SSL front end, or the name of the bundle that has it.
        codebook_weight, commitment_weight: factors beside the reconstruction (released: 1 and 0.15).
    """

    def __init__(
        self,
        codec: SemanticCodecConfig = SemanticCodecConfig(),  # noqa: B008  frozen
        features: SSLFeatures | str | None = None,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.15,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._features_origin: Mapping[str, Any] = {}
        if isinstance(features, str):
            folder = bundle_folder(features)
            self._features_origin = read_index(folder)["parts"].get("ssl_features", {})
            features = load_features(folder)
        self.features = (features or FilterbankFeatures()).requires_grad_(False)
        self.resample = torchaudio.transforms.Resample(WAVE_RATE, self.features.sample_rate)
        self.codec = SemanticCodec(codec)
        self.restarts = CodebookRestarts(self.codec.quantizer)
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight

    def on_fit_start(self) -> None:
        """Measure the features' mean and deviation, unless a checkpoint brought them."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None and bool(self.features.std.eq(1).all()):
            frames = []
            for _, batch in zip(range(STATISTICS_BATCHES), datamodule.train_dataloader(), strict=False):
                batch = batch.to(self.device)
                lengths = resampled_length(batch.lengths, self.features.sample_rate)
                values = self.features.unnormalised(self.resample(batch.wave), lengths)
                frames.append(values[frame_mask(self.features.num_frames(lengths), values.shape[1])])
            # Every process has batches of its own: all take the first one's.
            std, mean = self.trainer.strategy.broadcast(torch.std_mean(torch.cat(frames), dim=0))
            self.features.std.copy_(std)
            self.features.mean.copy_(mean)

    def parts(self) -> Mapping[str, PartOfBundle]:
        """Return the codec and the front end's statistics."""
        kind = next(name for name, cls in FEATURES.items() if isinstance(self.features, cls))
        return {
            "semantic_codec": PartOfBundle(plain_config(self.codec.config), "codec."),
            "ssl_features": PartOfBundle({"kind": kind, **self.features.config()}, "features.", self._features_origin),
        }

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Return the weighted sum, its terms over valid frames, and the codebook's perplexity."""
        with frozen_arithmetic(batch.wave):
            lengths = resampled_length(batch.lengths, self.features.sample_rate)
            features, _ = self.features(self.resample(batch.wave), lengths)
        reconstructed, quantized = self.codec(features)
        if self.training and self.restarts is not None:
            self.restarts.observe(quantized, self.global_step)
        valid = frame_mask(self.features.num_frames(lengths), features.shape[1])
        reconstruction = (reconstructed.float() - features).abs()[valid].mean()
        codebook, commitment = quantized.codebook_loss, quantized.commitment_loss
        loss = reconstruction + self.codebook_weight * codebook + self.commitment_weight * commitment
        used = perplexity(quantized.codes[0][valid], self.codec.config.codebook_size)
        terms = {"reconstruction": reconstruction, "codebook": codebook, "commitment": commitment}
        return {"loss": loss, **terms, "perplexity": used}

    def averaged_over(self, scalars: Mapping[str, Tensor], batch: SpeechBatch) -> int:
        """Return the frames of a batch."""
        lengths = resampled_length(batch.lengths, self.features.sample_rate)
        return int(self.features.num_frames(lengths).sum())
