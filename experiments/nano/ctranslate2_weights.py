"""The weights of Whisper's encoder out of a CTranslate2 model file, read as data.

The format (version 6) is a list of named arrays: version, name of the specification and its revision, number of arrays;
then for each its name, rank, dimensions, type, bytes; then aliases. Numbers are little-endian, text ends with a zero.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from metis_lightning.errors import UserError

FORMAT = 6
SPECIFICATION = "WhisperSpec"
_TYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16}
_MAX_ARRAYS, _MAX_RANK = 10_000, 8

# CTranslate2's names within a layer, and ours.
_LAYER = {
    "self_attention/layer_norm/gamma": "attention_norm.weight",
    "self_attention/layer_norm/beta": "attention_norm.bias",
    "self_attention/linear_0/weight": "qkv.weight",
    "self_attention/linear_0/bias": "qkv.bias",
    "self_attention/linear_1/weight": "out.weight",
    "self_attention/linear_1/bias": "out.bias",
    "ffn/layer_norm/gamma": "mlp_norm.weight",
    "ffn/layer_norm/beta": "mlp_norm.bias",
    "ffn/linear_0/weight": "mlp.0.weight",
    "ffn/linear_0/bias": "mlp.0.bias",
    "ffn/linear_1/weight": "mlp.2.weight",
    "ffn/linear_1/bias": "mlp.2.bias",
}


def whisper_encoder(path: Path, num_layers: int) -> dict[str, Tensor]:
    """Return the weights of `WhisperFeatures(num_layers)`, without its statistics, in float32.

    Raises:
        UserError: if the file is not a CTranslate2 model of Whisper in floating point, or has fewer layers.
    """
    arrays = read_arrays(path)
    names = {f"encoder/conv{conv}/{part}": f"conv{conv}.{part}" for conv in (1, 2) for part in ("weight", "bias")}
    for layer in range(num_layers):
        names |= {f"encoder/layer_{layer}/{theirs}": f"layers.{layer}.{ours}" for theirs, ours in _LAYER.items()}
    if missing := sorted(set(names) - set(arrays)):
        raise UserError(f"{path}: no {missing[0]} in it; is it Whisper's encoder with {num_layers} layers or more?")
    if any(not arrays[name].is_floating_point() for name in names):
        raise UserError(f"{path}: its weights are integers; take a model converted to float16 or float32")
    return {ours: arrays[theirs].float() for theirs, ours in names.items()}


def read_arrays(path: Path) -> Mapping[str, Tensor]:
    """Return all arrays of a CTranslate2 model by their names.

    Raises:
        UserError: if it is not such a file, or not a whole one.
    """
    try:
        with path.open("rb") as file:
            return dict(_arrays(file, path.stat().st_size))
    except (OSError, ValueError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise UserError(f"{path}: not a whole CTranslate2 model of Whisper, format {FORMAT} ({error})") from error


def _arrays(file: BinaryIO, file_size: int) -> Iterator[tuple[str, Tensor]]:
    (version,) = _numbers(file, "<I")
    specification = _text(file)
    _, count = _numbers(file, "<II")
    if version != FORMAT or specification != SPECIFICATION or count > _MAX_ARRAYS:
        raise ValueError(f"format {version}, {specification!r}, {count} arrays")
    for _ in range(count):
        name = _text(file)
        (rank,) = _numbers(file, "<B")
        if rank > _MAX_RANK:
            raise ValueError(f"{name} has {rank} dimensions")
        shape = _numbers(file, f"<{rank}I")
        kind, size = _numbers(file, "<BI")
        # A size that a file cannot hold is found before memory is asked for.
        data = file.read(min(size, file_size))
        if len(data) != size or math.prod(shape) * _TYPES[kind].itemsize != size:
            raise ValueError(f"{name} is cut off")
        values = torch.frombuffer(bytearray(data), dtype=_TYPES[kind]) if data else torch.empty(0, dtype=_TYPES[kind])
        yield name, values.reshape(shape)


def _numbers(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "<H")
    return file.read(length)[:-1].decode()
