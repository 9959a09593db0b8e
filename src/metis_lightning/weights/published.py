"""Configurations as the published checkpoints' files name them, to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metis_lightning.models.semantic_to_acoustic import SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1Config
from metis_lightning.tokens.acoustic_codec import AcousticCodecConfig


def stage1_config(published: Mapping[str, Any]) -> Stage1Config:
    """Return the sizes of a `t2s`/`metis` configuration."""
    return Stage1Config(
        hidden_size=published["hidden_size"],
        num_layers=published["num_layers"],
        num_heads=published["num_heads"],
        codebook_size=published["cond_codebook_size"],
        use_phone_cond=published["use_phone_cond"],
    )


def s2a_config(published: Mapping[str, Any]) -> SemanticToAcousticConfig:
    """Return the sizes of an `s2a` configuration."""
    return SemanticToAcousticConfig(
        num_quantizers=published["num_quantizer"],
        hidden_size=published["hidden_size"],
        num_layers=published["num_layers"],
        num_heads=published["num_heads"],
        codebook_size=published["codebook_size"],
        semantic_codebook_size=published["cond_codebook_size"],
        first_layer=0 if published["predict_layer_1"] else 1,
    )


def acoustic_config(published: Mapping[str, Any]) -> AcousticCodecConfig:
    """Return the sizes of an acoustic codec's `encoder` and `decoder` configuration."""
    encoder, decoder = published["encoder"], published["decoder"]
    return AcousticCodecConfig(
        d_model=encoder["d_model"],
        up_ratios=tuple(encoder["up_ratios"]),
        latent_dim=encoder["out_channels"],
        num_quantizers=decoder["num_quantizers"],
        codebook_size=decoder["codebook_size"],
        codebook_dim=decoder["codebook_dim"],
        quantizer_dropout=decoder["quantizer_dropout"],
        vocos_dim=decoder["vocos_dim"],
        vocos_intermediate_dim=decoder["vocos_intermediate_dim"],
        vocos_num_layers=decoder["vocos_num_layers"],
        n_fft=decoder["n_fft"],
        hop_size=decoder["hop_size"],
    )
