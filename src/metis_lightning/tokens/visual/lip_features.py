"""Lip features (F, C) of videos, F frames at 25 Hz: of one, for inference, and of a manifest, as training files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.media.mouths import MOUTH_SIZE, crop_mouths
from metis_lightning.data.media.video import iterate_frames
from metis_lightning.data.recipes.l2s import mouth_video, read_mouths
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.progress import Progress
from metis_lightning.safe_parsing import load_json
from metis_lightning.tokens.visual.encoder import VisualEncoder


def lip_features(video: Path | str, encoder: VisualEncoder, device: str = "cpu") -> Tensor:
    """Return the lip features (F, C) of a video of a talking face, or in 96 x 96 pixels of the mouth alone.

    A `UserError` if the video is unreadable, shows no face, or a package for it is not installed.
    """
    first = next(iterate_frames(Path(video)), None)
    if first is None:
        raise UserError(f"{video}: the video holds no pictures; replace it")
    if first.shape[:2] == (MOUTH_SIZE, MOUTH_SIZE):
        mouths = read_mouths(Path(video))
    else:
        mouths = np.stack(list(crop_mouths(Path(video))))
    return encoder.features(mouths, device)


@dataclass(frozen=True)
class LipFeatureOptions:
    """The utterances whose lip features are wanted, and where they go."""

    manifest: Path  # of `prepare`
    root: str  # the folder that it was prepared with
    out: Path  # folder of `ID.npy`, (F, C) float32 each
    mouths: Path | None = None  # folder of `ID.mp4`; None takes the manifest's videos, which then show mouths
    device: str = "cpu"
    shard: tuple[int, int] = (0, 1)  # this job, from 0, and the number of jobs that share the work


def write_lip_features(encoder: VisualEncoder, options: LipFeatureOptions) -> int:
    """Write the lip features of a manifest's utterances that are not there yet; return how many this call wrote.

    A `UserError` if the folder is another encoder's, by its `features.json`, or a video cannot be read.
    """
    _claim(options.out, encoder)
    number, jobs = options.shard
    listed = open_manifest(options.manifest, options.root)[number::jobs]
    missing = [(path, item) for item in listed if not (path := options.out / f"{item.id}.npy").is_file()]
    with Progress("lip features", "videos", len(missing)) as progress:
        for path, utterance in missing:
            mouths = read_mouths(mouth_video(SpeechCorpus([utterance], cache=False), 0, options.mouths))
            features = encoder.features(mouths, options.device)
            with atomic_path(path) as temporary:
                np.save(temporary, features.numpy(), allow_pickle=False)
            progress.step()
    return len(missing)


def _claim(folder: Path, encoder: VisualEncoder) -> None:
    """Note in a folder whose features it holds, or check that they are this encoder's."""
    # Before the note: wrong weights must not claim a folder.
    identity, note = encoder.identity(), folder / "features.json"
    if not note.is_file():
        with atomic_path(note) as temporary:
            temporary.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        return
    try:
        noted = load_json(note.read_bytes())
    except ValueError as error:
        raise UserError(f"{note}: not a note of `prepare` ({error}); remove the folder") from error
    if noted != identity:
        raise UserError(f"{folder}: holds features of another encoder (see {note.name}); give another folder")
