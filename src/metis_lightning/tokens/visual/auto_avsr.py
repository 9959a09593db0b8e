"""Lip features by Auto-AVSR's published weights of visual speech recognition, which are read by name.

Of two spellings one has everything below `encoder.`: `encoder.frontend.frontend3D.0.weight`, `encoder.embed.0.weight`.
The later one has `frontend.…` and `proj_encoder.weight` outside. A Lightning checkpoint puts `model.` before either.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.state_dicts import check_finite, difference
from metis_lightning.tokens.tokenizer import frozen_arithmetic
from metis_lightning.tokens.visual.encoder import AutoAvsrEncoder, VisualEncoder, VisualSizes

# Beside the encoder, a recogniser has a decoder, a CTC head and what joins them.
_OTHER_PARTS = ("decoder.", "ctc.", "proj_decoder.", "criterion.")
# Tables of positions, which are computed here, and counts of training steps.
_NO_WEIGHTS = re.compile(r"embed\.\d+\.pe|.*\.num_batches_tracked")


class AutoAvsrFeatures(VisualEncoder):
    """Lip features by a file of Auto-AVSR's weights, read when it is first used and no part of this module's own.

    The encoder, of `sizes`, is frozen and runs in float32.
    """

    def __init__(self, weights: Path, sizes: VisualSizes = VisualSizes()) -> None:  # noqa: B008  frozen
        super().__init__()
        self.weights, self.sizes, self.dim = Path(weights), sizes, sizes.dim
        # In a list, so that it becomes no part of the weights.
        self._encoder: list[AutoAvsrEncoder] = []

    def forward(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return features (B, F, C) of pictures (B, F, 88, 88) with `lengths` (B,) frames; zeros for padding."""
        with frozen_arithmetic(pictures):
            return self.load().to(pictures.device)(pictures.float(), lengths)

    def load(self) -> AutoAvsrEncoder:
        """Return the encoder, read at the first call."""
        if not self._encoder:
            self._encoder.append(load_auto_avsr(self.weights, self.sizes))
        return self._encoder[0]

    def identity(self) -> dict[str, Any]:
        """Return the sizes and the SHA-256 of the file, once it is seen to fit. A `UserError` if it does not."""
        self.load()
        digest = sha256_of(self.weights)
        return {"weights_sha256": digest, "sizes": {**asdict(self.sizes), "channels": list(self.sizes.channels)}}


def load_auto_avsr(path: Path, sizes: VisualSizes = VisualSizes()) -> AutoAvsrEncoder:  # noqa: B008  frozen
    """Return the frozen encoder with the weights of a file, `.pth`, `.ckpt` or `.safetensors`.

    A `UserError` if it is missing or holds more than plain weights, or names the encoder's tensors that do not fit.
    """
    with torch.device("meta"):
        encoder = AutoAvsrEncoder(sizes)
    weights = {}
    for name, value in _read_weights(Path(path)).items():
        name = re.sub(r"^(module\.|model\.)+", "", name)
        if name.startswith(_OTHER_PARTS):
            continue
        name = re.sub(r"^proj_encoder\.", "encoder.embed.0.", name).removeprefix("encoder.")
        if not _NO_WEIGHTS.fullmatch(name):
            weights[name] = value
    needed = {name: value for name, value in encoder.state_dict().items() if not _NO_WEIGHTS.fullmatch(name)}
    if text := difference(needed, weights):
        raise UserError(f"{path}: not the weights of Auto-AVSR's visual encoder: {text}")
    check_finite(weights, str(path))
    # What is on the meta device must get a value, counts that nothing reads among it.
    counts = {name: torch.tensor(0) for name in encoder.state_dict() if name not in needed}
    encoder.load_state_dict({**{name: value.float() for name, value in weights.items()}, **counts}, assign=True)
    return encoder.eval().requires_grad_(False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, whatever it wraps them in; nothing in it can run."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights; download Auto-AVSR's visual speech recognition model")
    try:
        is_safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a file of plain weights ({reason})") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: not a file of named tensors")
    return content
