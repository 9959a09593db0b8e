"""Auto-AVSR's published weights of visual speech recognition, read by name.

Two spellings are about. The first has everything below `encoder.`: `encoder.frontend.frontend3D.0.weight`,
`encoder.frontend.trunk.layer1.0.conv1.weight`, `encoder.embed.0.weight`,
`encoder.encoders.0.self_attn.linear_q.weight`, `encoder.after_norm.weight`. The later one has `frontend.…` and
`proj_encoder.weight` outside, and the rest as before. A Lightning checkpoint puts `model.` before either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.state_dicts import check_finite
from metis_lightning.tokens.tokenizer import frozen
from metis_lightning.tokens.visual.encoder import AutoAvsrEncoder, VisualEncoder, VisualSizes

# Beside the encoder, a recogniser has a decoder, a CTC head and what joins them.
_OTHER_PARTS = ("decoder.", "ctc.", "proj_decoder.", "criterion.")
# Tables of positions, which are computed here, and counts of training steps.
_NO_WEIGHTS = re.compile(r"embed\.\d+\.pe|.*\.num_batches_tracked")


class AutoAvsrFeatures(VisualEncoder):
    """Lip features by a file of Auto-AVSR's weights, which is read when it is first used.

    The encoder is frozen, runs in float32, and is no part of this module's weights.

    Args:
        weights: the file, see `load_auto_avsr`.
        sizes: of the encoder.
    """

    def __init__(self, weights: Path, sizes: VisualSizes = VisualSizes()) -> None:  # noqa: B008  frozen
        super().__init__()
        self.weights, self.sizes, self.dim = Path(weights), sizes, sizes.dim
        # In a list, so that it becomes no part of the weights.
        self._encoder: list[AutoAvsrEncoder] = []

    def forward(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return features (B, F, C) of pictures (B, F, 88, 88) with `lengths` (B,) frames; zeros for padding.

        Raises:
            UserError: if the weights are missing or others, see `load_auto_avsr`.
        """
        with frozen(pictures):
            return self.loaded().to(pictures.device)(pictures.float(), lengths)

    def loaded(self) -> AutoAvsrEncoder:
        """Return the encoder, read at the first call."""
        if not self._encoder:
            self._encoder.append(load_auto_avsr(self.weights, self.sizes))
        return self._encoder[0]


def load_auto_avsr(
    path: Path,
    sizes: VisualSizes = VisualSizes(),  # noqa: B008  frozen
) -> AutoAvsrEncoder:
    """Return the frozen encoder with the weights of a file, `.pth`, `.ckpt` or `.safetensors`.

    Raises:
        UserError: if the file is missing, holds more than plain weights, or an encoder tensor is missing, unexpected or
            of another shape; all of these are named.
    """
    with torch.device("meta"):
        encoder = AutoAvsrEncoder(sizes)
    found = encoder_weights(read_weights(Path(path)))
    expected = {name: value for name, value in encoder.state_dict().items() if not _NO_WEIGHTS.fullmatch(name)}
    if problems := _differences(found, expected):
        raise UserError(f"{path}: not the weights of Auto-AVSR's visual encoder: {'; '.join(problems)}")
    check_finite(found, str(path))
    counts = {name: torch.tensor(0) for name in encoder.state_dict() if name not in expected}
    encoder.load_state_dict({**{name: value.float() for name, value in found.items()}, **counts}, assign=True)
    return encoder.eval().requires_grad_(False)


def encoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors under the names of `AutoAvsrEncoder`, leaving out the recogniser's other parts."""
    plain = {re.sub(r"^(module\.|model\.)+", "", name): value for name, value in tensors.items()}
    kept = {name: value for name, value in plain.items() if not name.startswith(_OTHER_PARTS)}
    renamed = {_renamed(name): value for name, value in kept.items()}
    return {name: value for name, value in renamed.items() if not _NO_WEIGHTS.fullmatch(name)}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, whatever it wraps them in; nothing in it can run.

    Raises:
        UserError: if it is missing, unreadable, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights; download Auto-AVSR's visual speech recognition model")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a file of plain weights ({reason})") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: not a file of named tensors")
    return content


def _load(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _renamed(name: str) -> str:
    if name.startswith("proj_encoder."):
        return name.replace("proj_encoder.", "embed.0.", 1)
    return name.removeprefix("encoder.")


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return lines that name what is missing, unexpected, or of another shape."""
    shapes = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
        for name in sorted(found.keys() & expected.keys())
        if found[name].shape != expected[name].shape
    ]
    kinds = (
        ("missing", sorted(expected.keys() - found.keys())),
        ("unexpected", sorted(found.keys() - expected.keys())),
        ("wrong shape", shapes),
    )
    return [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds if names]
