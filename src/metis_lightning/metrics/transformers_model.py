"""A metric's model as transformers keeps it: loaded, named honestly, and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from metis_lightning.metrics.model_files import model_folder, model_name, read_config, require_sizes, weight_hashes
from metis_lightning.metrics.packages import require


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
