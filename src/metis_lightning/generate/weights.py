"""Loads the pipeline that the options name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.generate.options import WeightsOptions
from metis_lightning.models.inference import usual_precision
from metis_lightning.options import Precision
from metis_lightning.pipeline import Metis
from metis_lightning.tokens.phonemes import MASKGCT_PHONES, MaskgctPhones
from metis_lightning.weights.bundle import BUNDLE_INDEX, bundle_folder, licence_note


def chosen_device(options: WeightsOptions) -> str:
    """Return the device of the options, else a GPU where there is one. A `UserError` if the named one is not there."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; leave it out, or give cpu")
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def chosen_precision(options: WeightsOptions) -> Precision:
    """Return what both stages compute in: as the option says, else what is usual on the device."""
    return options.precision or usual_precision(chosen_device(options))


def load_metis(name: str, task: str, options: WeightsOptions) -> Metis:
    """Return the pipeline for a task. A `UserError` if the weights, or a phone vocabulary, are not for it."""
    metis = Metis.from_pretrained(name, task, options.base, chosen_device(options), chosen_precision(options))
    if options.phone_vocabulary is not None and metis.text is not None:
        set_vocabulary(metis, options.phone_vocabulary)
    if note := licence_note(bundle_folder(options.bundle_of(name))):
        print(f"metis-lightning: licences of {name}: {note}; its README has more", file=sys.stderr)
    return metis


def set_vocabulary(metis: Metis, path: Path) -> None:
    """Let imported weights read text by the phone vocabulary that they learnt. A `UserError` if it is another."""
    if metis.text is None or metis.text.name != MASKGCT_PHONES:
        learnt = "no text" if metis.text is None else f"the front end {metis.text.name!r}"
        raise UserError(f"--phone-vocabulary {path} is for the released weights; these learnt {learnt}: leave it out")
    metis.text = MaskgctPhones.read(path)


def identity(name: str, options: WeightsOptions) -> dict[str, Any]:
    """Return hashes that change with the weights: a bundle's index holds those of its files."""
    bundle = bundle_folder(options.bundle_of(name)) / BUNDLE_INDEX
    files = [Path(name), bundle] if name.endswith(".ckpt") else [bundle]
    files += [path for path in (options.phone_vocabulary, options.visual_encoder) if path is not None]
    return {"weights": [sha256_of(path) for path in files]}
