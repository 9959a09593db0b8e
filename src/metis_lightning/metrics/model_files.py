"""Optional packages and model files of metrics: found, checked, and named in fingerprints.

Packages are imported where they are used, with a message that says how to get them. Models from the hub are loaded from
a folder in the end, so that what a result was made with can be said file by file.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.safe_parsing import load_json

_SMALL_FILES = ("*.json", "*.txt", "*.yaml", "*.ckpt", "*.safetensors")
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".tar")


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the optional dependencies `extra` bring. A `UserError` if it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra) from error


def missing(package: str, extra: str) -> UserError:
    """Return the error that says which extra brings `package`."""
    return UserError(f"the package '{package}' is not installed: run  pip install 'metis-lightning[{extra}]'")


def verify(path: Path, sha256: str, requirement: str) -> None:
    """Raise `UserError` unless a file that the package `requirement` carries is the one whose numbers we know."""
    if not path.is_file() or sha256_of(path) != sha256:
        raise UserError(f"{path}: missing, or not the file expected: install  {requirement}  again")


def versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the installed version of each distribution, None for one that is absent."""
    installed: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def is_offline() -> bool:
    """Return whether the hub may not be reached."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def model_folder(source: str) -> Path:
    """Return the folder of a model: `source` itself, or the hub's of that name. A `UserError` if neither is here."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise UserError(f"no folder with a metric model at {source}: give a folder, or a name on the hub (OWNER/NAME)")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, allow_patterns=list(_SMALL_FILES)))
        # Without safetensors `pytorch_model.bin`, which transformers loads with `weights_only`.
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(source, allow_patterns=[*_SMALL_FILES, "pytorch_model.bin"]))
    except (OSError, ValueError) as error:
        cure = "set HF_HUB_OFFLINE=0 to download it, or give its folder" if is_offline() else "give its folder instead"
        raise UserError(f"the metric model {source} is not on this machine: {cure}") from error
    return folder


def model_name(source: str, owner: str) -> str:
    """Return what a column calls a model: the last part of its source, after its owner's name if not by `owner`.

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


def weight_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file with weights in a folder; none if the folder is not there."""
    if not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS and path.is_file())
    return {path.name: sha256_of(path) for path in paths}


def file_identity(name: str, path: Path, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what fingerprints say of a model whose weights are one file, run by `packages`."""
    identity: dict[str, Any] = {"name": name, "file": path.name, "sha256": sha256_of(path)}
    return identity | ({"packages": versions(packages)} if packages else {})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint of tensors and plain data, which cannot run code. A `UserError` if it holds anything else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint of plain tensors ({type(error).__name__}): {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of plain tensors, but a {type(content).__name__}")
    return content


class TransformersModel:
    """A metric's model as transformers has it, in float32 and frozen. Not an `nn.Module`: checkpoints need none of it.

    A subclass names transformers' classes, the source that is loaded by default, the owner of the originals on the hub,
    their sizes by name, so that no other model passes for one of them, and how it decodes.
    """

    processor_class: ClassVar[str]
    model_class: ClassVar[str]
    source: ClassVar[str]
    owner: ClassVar[str]
    published: ClassVar[Mapping[str, Mapping[str, int]]]
    decoding: ClassVar[Any] = None

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 1) -> None:
        """Load a folder, or a name on the hub. A `UserError` if it is missing, or not the model of its name."""
        # As torch has threads of its own, `num_threads` changes nothing.
        transformers = require("transformers", "ssl")
        folder = model_folder(source or self.source)
        self.name, self.device = model_name(source or self.source, self.owner), device
        self._require_published_sizes(folder / "config.json")
        self.processor = getattr(transformers, self.processor_class).from_pretrained(folder)
        self.model = getattr(transformers, self.model_class).from_pretrained(folder, dtype=torch.float32)
        self.model.eval().requires_grad_(False).to(device)
        packages = versions(("transformers", "torch"))
        self.identity: dict[str, Any] = {"name": self.name, "sha256": weight_hashes(folder), "packages": packages}
        if self.decoding is not None:
            self.identity["decoding"] = self.decoding

    def _require_published_sizes(self, path: Path) -> None:
        try:
            config = load_json(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = f"not the config of a model ({error}): give the folder of a complete model"
            raise UserError(f"{path}: {reason}") from error
        if not isinstance(config, dict):
            raise UserError(f"{path}: not the config of a model: give the folder of a complete model")
        sizes = self.published.get(self.name, {})
        wrong = [f"{key} {config.get(key)}" for key, size in sorted(sizes.items()) if config.get(key) != size]
        if wrong:
            cure = "give its folder the name of what is in it"
            raise UserError(f"the model called {self.name} is another one ({', '.join(wrong)}): {cure}")
