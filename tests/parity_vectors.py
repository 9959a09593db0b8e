"""The parity vectors, and what a model of ours must compute from them.

The folder is `METIS_PARITY_DIR`, by default the copy in `parity/`, whose README says what each file holds. Every size
is read from the files.
"""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from metis_lightning.bench.released_decoding import two_pass_acoustic_tokens, two_pass_ssl_tokens
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.denoisers import Stage1Request, Stage2Request, sample_acoustic_tokens, sample_ssl_tokens
from metis_lightning.sampling.settings import Sampling
from metis_lightning.tokens.acoustic_codec import AcousticCodec
from metis_lightning.tokens.semantic_codec import SemanticCodec


def _unpacked() -> TemporaryDirectory[str]:
    """Unpack our copy for as long as this process lives."""
    folder = TemporaryDirectory(prefix="parity-")
    with tarfile.open(Path(__file__).parent / "parity" / "vectors.tar.xz") as archive:
        # The argument `filter` came with Python 3.11.4; before, this attribute is not looked at.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder.name)
    return folder


_OURS = None if "METIS_PARITY_DIR" in os.environ else _unpacked()
FOLDER = Path(os.environ["METIS_PARITY_DIR"] if _OURS is None else _OURS.name)
FILES = sorted(FOLDER.glob("*.safetensors"))


def zero_noise(shape: tuple[int, ...], index: tuple[Tensor, ...]) -> Tensor:
    return torch.zeros(shape)[index]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-4, or 1e-5 of the tensor's peak where that is more: float32 has 7 digits.

    The acoustic latents of the vectors reach 774; evaluating the encoder in float64 is 0.003 away from them.
    """
    tolerance = max(1e-4, 1e-5 * theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def steps_of_layers(num_quantizers: int, given: int) -> list[int]:
    """The vectors' schedules: [6] for the first layer alone, [6, 4, 1, 1, …] for all."""
    return [6] if given == 0 and num_quantizers == 1 else [6, 4, *[1] * (num_quantizers - 2)]


@torch.no_grad()
def check_stage1(model: Stage1, io: dict[str, Tensor]) -> None:
    phones = None
    if "phone_id" in io:
        phones = io["phone_id"].masked_fill(io["phone_mask"] == 0, -1)
    hidden = model.hidden(io["x"], io["t"], io["x_mask"], phones)
    assert_close(hidden, io["estimator_out"])
    assert_close(model.to_logit(hidden), io["logits"])
    if "cond" in io:
        assert model.cond_adapter is not None
        assert_close(model.cond_adapter(io["cond"]), io["cond_adapter_out"])
    for key in ("tokens_cfg0.0", "tokens_cfg2.5"):
        request = Stage1Request(
            prompt=io["prompt"][0],
            length=io[key].shape[1],
            condition=io["cond"][0] if "cond" in io else None,
            phones=None if phones is None else io["phone_id"][0],
        )
        settings = Sampling(num_steps=8, guidance_scale=float(key.removeprefix("tokens_cfg")))
        assert torch.equal(sample_ssl_tokens(model, [request], settings, [zero_noise])[0], io[key][0]), key
        assert torch.equal(two_pass_ssl_tokens(model, request, settings, zero_noise), io[key][0]), key


@torch.no_grad()
def check_lora(model: Stage1, io: dict[str, Tensor]) -> None:
    assert_close(model.hidden(io["x"], io["t"], io["x_mask"]), io["estimator_out"])


@torch.no_grad()
def check_stage2(model: SemanticToAcoustic, io: dict[str, Tensor]) -> None:
    # The backbone check of the vectors adds the SSL tokens' embedding alone, without that of a layer.
    hidden = model.hidden(io["x"], model.cond_emb(io["semantic"]), io["t"], io["x_mask"])
    assert_close(hidden, io["estimator_out"])
    base = Sampling(temperature=1.5)
    given = io.get("layer1", io["prompt"].new_zeros(1, io["semantic"].shape[1] - io["prompt"].shape[1], 0))
    steps = steps_of_layers(model.config.num_quantizers, given.shape[-1])
    for key in ("tokens_cfg0.0", "tokens_cfg2.5"):
        settings = replace(base, guidance_scale=float(key.removeprefix("tokens_cfg")))
        request = Stage2Request(io["semantic"][0], io["prompt"][0], given[0])
        assert torch.equal(sample_acoustic_tokens(model, [request], settings, steps, [zero_noise])[0], io[key][0]), key
        assert torch.equal(two_pass_acoustic_tokens(model, request, settings, steps, zero_noise), io[key][0]), key


@torch.no_grad()
def check_semantic_codec(codec: SemanticCodec, io: dict[str, Tensor]) -> None:
    codes, quantized = codec.quantize(io["features"])
    assert torch.equal(codes, io["codes"])
    assert_close(quantized, io["quantized"])
    assert_close(codec(io["features"])[0], io["reconstructed"])
    assert_close(codec.decoder(codec.quantizer.decode(io["codes"][None])), io["reconstructed"])


@torch.no_grad()
def check_acoustic_codec(codec: AcousticCodec, io: dict[str, Tensor]) -> None:
    latents = codec.encoder(io["wav"])
    assert_close(latents, io["latent"])
    quantized = codec.decoder.quantizer(latents)
    assert torch.equal(quantized.codes, io["codes"])
    assert_close(quantized.latents, io["quantized"])
    assert_close(codec.decoder.quantizer.decode(io["codes"]), io["embedded"])
    assert_close(codec.decoder.model(io["embedded"])[:, None], io["decoded"])
    assert_close(codec.decode(codec.encode(io["wav"][:, 0]))[:, None], io["decoded"])
