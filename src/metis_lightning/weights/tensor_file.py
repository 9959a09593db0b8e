"""Files of named tensors: those from elsewhere, read without running code, and rows of int8 as bundles store them."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import load_json

_SCALE = ".row_scale"
# Shorter rows are not worth a scale.
_MIN_ROW = 16
# Which torch has, but tells no type checker of.
INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009
# Values of a row that share a scale in 4 bits.
_GROUP = 32


class TensorFile:
    """A safetensors file, or a dictionary of tensors that `torch.save` wrote (`.pt`, `.pth`, `.bin`).

    A tensor's bytes are read when they are used. A `UserError` if the file is missing, or holds anything but tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Of a safetensors file.
        self.metadata: Mapping[str, str] = {}
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        self._tensors = self._safetensors() if path.suffix == ".safetensors" else self._saved()
        self.shapes: Mapping[str, Tensor] = {name: value.to("meta") for name, value in self._tensors.items()}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, which shares its memory with no other."""
        tensor = self._tensors[name]
        # What `torch.save` wrote may hold two views of one memory, which safetensors refuses to write.
        return tensor if self.path.suffix == ".safetensors" else tensor.clone()

    def published_config(self) -> dict[str, Any] | None:
        """Return the sizes in a file's metadata, if any, by published names. A `UserError` if they are no object."""
        if "config" not in self.metadata:
            return None
        try:
            config = load_json(self.metadata["config"])
        except ValueError as error:
            raise UserError(f"{self.path}: its metadata 'config' is not JSON ({error})") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.path}: its metadata 'config' is not a JSON object")
        return config

    def _safetensors(self) -> dict[str, Tensor]:
        try:
            with safe_open(self.path, "pt") as file:
                self.metadata = file.metadata() or {}
                # Mapped into memory, not read.
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        except (SafetensorError, OSError) as error:
            what = f"not a whole safetensors file, and under this name nothing else is read ({error})"
            raise UserError(f"{self.path}: {what}; download it again") from error

    def _saved(self) -> dict[str, Tensor]:
        try:
            with warnings.catch_warnings():
                # The error says in one line what torch warns of in several.
                warnings.simplefilter("ignore", UserWarning)
                mmap = zipfile.is_zipfile(self.path) or None
                content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mmap)
        except (UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError, TypeError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.path}: not a file of plain tensors, so it is not read ({reason})") from error
        if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
            raise UserError(f"{self.path}: it holds more than named tensors; give a file of weights alone")
        return content


def in_groups(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with matrices in 4 bits, two values a byte, beside a scale for each group of a row's values.

    What does not divide into groups is stored as `in_rows` does.
    """
    stored = in_rows(tensors)
    for name, value in tensors.items():
        if name in stored and stored[name].dtype == torch.int8 and value.dim() == 2 and value.shape[1] % _GROUP == 0:
            groups = value.float().unflatten(1, (-1, _GROUP))
            exact = (groups.abs().amax(dim=2) / 7).clamp(min=1e-30)
            scale = exact.view(torch.int32).bitwise_and(-(1 << 16)).view(torch.float32)
            whole = ((groups / scale[..., None]).round().clamp(-7, 7) + 8).flatten(1).to(torch.uint8)
            stored[name] = whole[:, ::2] + 16 * whole[:, 1::2]
            stored[name + _SCALE] = scale
    return stored


def in_rows(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with matrices and convolutions in int8, beside a scale for each row; its largest value is 127."""
    stored = dict(tensors)
    for name, value in tensors.items():
        if value.is_floating_point() and value.dim() > 1 and value[0].numel() >= _MIN_ROW:
            rows = value.float().flatten(1)
            # The stored scale, a bfloat16, is what the rows are divided by, so that its rounding costs nothing. It is
            # rounded down: so the largest value is 127, and storing once more what was read changes nothing.
            exact = (rows.abs().amax(dim=1) / 127).clamp(min=1e-30)
            scale = exact.view(torch.int32).bitwise_and(-(1 << 16)).view(torch.float32)
            stored[name] = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).reshape(value.shape)
            stored[name + _SCALE] = scale
    return stored


def from_rows(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in float32; the rows of int8 ones, or the groups of those in 4 bits, times their scales."""
    tensors = {name: value.float() for name, value in stored.items() if not name.endswith(_SCALE)}
    for name in tensors:
        if name + _SCALE in stored:
            scale = stored[name + _SCALE].float()
            if scale.dim() == 2:
                halves = torch.stack([stored[name] % 16, stored[name] // 16], dim=2).flatten(1).float() - 8
                tensors[name] = (halves.unflatten(1, (-1, _GROUP)) * scale[..., None]).flatten(1)
                continue
            tensors[name] *= scale.reshape(-1, *[1] * (tensors[name].dim() - 1))
    return tensors
