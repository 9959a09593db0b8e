"""What tokens depend on, as hashes: equal fingerprints make equal tokens of equal audio."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from metis_lightning.tokens.precision import arithmetic
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import WAVE_RATE

ALGORITHM = 1
"""Counted up when a release makes other tokens with the same weights."""


def fingerprints(
    tokenizer: SpeechTokenizer, kinds: Iterable[str], device: torch.device | None = None
) -> dict[str, str]:
    """Return the SHA-256 of everything that each kind of array follows from: settings, weights and this code's version.

    The acoustic codec's decoder is left out, which tokens do not depend on: training it on keeps them valid. So is the
    device, as long as it computes in float32; what a GPU computes in TF32 has fingerprints of its own.

    Args:
        tokenizer: whose encoders' weights are hashed; w2v-BERT is loaded for it if it was not yet.
        kinds: among `ssl`, `acoustic` and `features`.
        device: where it makes them; where it is now if None.

    Raises:
        ValueError: if a kind is none of them, or the tokenizer has no codec for it.
        UserError: if w2v-BERT is needed and not there.
    """
    made = {"features": _features, "ssl": _ssl, "acoustic": _acoustic}
    if unknown := set(kinds) - made.keys():
        raise ValueError(f"unknown kinds of tokens: {', '.join(sorted(unknown))}")
    kind_of = arithmetic(device or next(tokenizer.parameters()).device)
    return {kind: _computed_in(kind_of, made[kind](tokenizer)) for kind in kinds}


def _computed_in(arithmetic: str, digest: str) -> str:
    """Return the fingerprint in some arithmetic, of that in float32."""
    return digest if arithmetic == "float32" else hashlib.sha256(f"{arithmetic}|{digest}".encode()).hexdigest()


def _features(tokenizer: SpeechTokenizer) -> str:
    front_end = tokenizer.features
    # Not its configuration: where an encoder was found says nothing that its weights do not.
    settings = {"class": type(front_end).__name__, "dim": front_end.dim, "wave_rate": WAVE_RATE}
    return _hashed("features", settings, {**front_end.state_dict(), **front_end.encoder_weights()})


def _ssl(tokenizer: SpeechTokenizer) -> str:
    codec = tokenizer.semantic_codec
    settings = {"features": _features(tokenizer), **asdict(codec.config)}
    return _hashed("ssl", settings, _parts(codec.state_dict(), "encoder.", "quantizer."))


def _acoustic(tokenizer: SpeechTokenizer) -> str:
    codec = tokenizer.acoustic_codec
    if codec is None:
        raise ValueError("acoustic tokens need a tokenizer with an acoustic codec")
    # The decoder's sizes begin with "vocos_"; dropout works in training alone.
    settings = {
        k: v for k, v in asdict(codec.config).items() if not k.startswith(("vocos_", "n_fft", "quantizer_drop"))
    }
    return _hashed("acoustic", settings, _parts(codec.state_dict(), "encoder.", "decoder.quantizer."))


def _parts(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(prefixes)}


def _hashed(kind: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{kind}|{ALGORITHM}|{sorted(settings.items())!r}".encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
