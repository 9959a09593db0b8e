"""Metric models from the hub or a folder: found, named honestly, and hashed.

Everything is loaded from a folder in the end, so that what a result was made with can be said file by file.

A metric's model as transformers keeps it: loaded, named honestly, and hashed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.packages import require
from metis_lightning.safe_parsing import load_json

_SMALL_FILES = ("*.json", "*.txt", "*.yaml", "*.ckpt", "*.safetensors")
_OLD_WEIGHTS = "pytorch_model.bin"
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".tar")


def model_folder(source: str) -> Path:
    """Return the folder of a model's files: `source` itself, or what the hub has under that name.

    Weights are taken as safetensors where a repository has them; else as `pytorch_model.bin`, which transformers loads
    with `weights_only`.

    Raises:
        UserError: there is no such folder, and the hub's copy is not on this machine or cannot be had.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise UserError(f"no folder with a metric model at {source}: give a folder, or a name on the hub (OWNER/NAME)")
    found = _download(source, list(_SMALL_FILES))
    if not any(found.glob("*.safetensors")):
        found = _download(source, [*_SMALL_FILES, _OLD_WEIGHTS])
    return found


def model_name(source: str, owner: str) -> str:
    """Return what a column calls a model: the last part of its source, in lower case.

    A repository of somebody else than `owner`, who published the original, has its owner in the name, so that it is not
    taken for the original.

    >>> model_name("openai/whisper-large-v3", "openai"), model_name("someone/whisper-large-v3", "openai")
    ('whisper-large-v3', 'someone-whisper-large-v3')
    >>> model_name("/models/My_Whisper", "openai")
    'my-whisper'
    """
    path = Path(source).expanduser()
    first, _, last = source.rpartition("/")
    is_hub = not path.is_absolute() and not path.is_dir() and "/" not in first
    whole = f"{first}-{last}" if is_hub and first not in ("", owner) else path.name
    return re.sub(r"[^a-z0-9.]+", "-", whole.lower()).strip("-")


def require_sizes(name: str, published: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    """Refuse a model under a published one's name whose sizes are not those of the published one.

    Raises:
        UserError: a size differs.
    """
    wrong = {key: config.get(key) for key, size in published.get(name, {}).items() if config.get(key) != size}
    if wrong:
        found = ", ".join(f"{key} {value}" for key, value in sorted(wrong.items()))
        raise UserError(f"the model called {name} is another one ({found}): give its folder the name of what is in it")


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model's `config.json`.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = folder / "config.json"
    try:
        config = load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not the config of a model ({error}): give the folder of a complete model") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: not the config of a model: give the folder of a complete model")
    return config


def weight_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file with weights in a folder."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS and path.is_file())
    return {path.name: sha256_of(path) for path in paths}


def _download(repository: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        cure = "set HF_HUB_OFFLINE=0 to download it, or give its folder" if offline else "give its folder instead"
        raise UserError(f"the metric model {repository} is not on this machine: {cure}") from error


@dataclass(frozen=True)
class Kind:
    """Which of transformers' classes read a kind of model, and who published the originals.

    processor, model: names of the classes.
    owner: of the originals' repositories on the hub.
    published: sizes of the originals by name, so that no other model passes for one of them.
    """

    processor: str
    model: str
    owner: str
    published: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class TransformersModel:
    """What was loaded: in float32, frozen, on `device`.

    name: what a column calls it.
    hashes: SHA-256 of its files with weights.
    """

    name: str
    hashes: Mapping[str, str]
    device: str
    processor: Any
    model: Any

    @classmethod
    def load(cls, kind: Kind, source: str, device: str) -> TransformersModel:
        """Load a model.

        Args:
            kind: of the model.
            source: a folder as transformers saves it, or a name on the hub.
            device: "cpu" or "cuda".

        Raises:
            UserError: transformers or the model is missing, or the model is not the one that its name says.
        """
        transformers = require("transformers", "ssl")
        folder = model_folder(source)
        name = model_name(source, kind.owner)
        require_sizes(name, kind.published, read_config(folder))
        processor = getattr(transformers, kind.processor).from_pretrained(folder)
        model = getattr(transformers, kind.model).from_pretrained(folder, dtype=torch.float32)
        model.eval().requires_grad_(False).to(device)
        return cls(name, weight_hashes(folder), device, processor, model)
