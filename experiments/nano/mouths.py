"""Draws the mouths of a training corpus: 96 x 96 pixels, 25 pictures a second, for lip to speech without a face.

    python experiments/nano/mouths.py --out runs/nano/mouths

It needs `pip install '.[offline,video]'`. The phones of each English utterance of the starter corpus, of its splits
`train`, `dev` and `test-unseen`, are found in time by PocketSphinx's forced alignment with the text; each phone has the
shape of its viseme, shapes pass into one another as muscles let them, and loudness opens the mouth further. Faces,
light, place, blur and noise are drawn once an utterance. Of `test-unseen`, voices that are not trained on, there are
the targets of the other tasks' trials.

What the pictures show is what such a drawing can: lips that close for p, b and m, teeth on the lip for f and v, round
and wide vowels, opening and loudness. They show no person, no cheek, jaw or throat, nothing that was filmed. A model
trained on them shows that the way from video to speech works, not how well lips can be read.

Writes a corpus: `video/ID.mp4`, silent, `audio/ID.opus`, and, when all are there, `clips.jsonl`, a list for `prepare
video`. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from pocketsphinx import Decoder
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.records import read_rows, read_trials
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.media.video import write_video
from metis_lightning.files import atomic_path
from metis_lightning.progress import tracked

SIZE, PICTURES_PER_SECOND = 96, 25
FRAMES_PER_SECOND = 100
"""Of the alignment."""
SAMPLE_RATE = 16_000
# Splits of the starter corpus, and what they are called here.
SPLITS = {"train": "train", "dev": "dev", "test-unseen": "test"}

# How far the jaw is open, how wide the lips are, how far they are rounded forward, how much of the teeth and of the
# tongue is seen, and whether the lower lip lies under the upper teeth; each from 0 to 1.
VISEMES: dict[str, tuple[float, float, float, float, float, float]] = {
    "P B M": (0.0, 0.5, 0.1, 0.0, 0.0, 0.0),
    "F V": (0.12, 0.55, 0.0, 0.5, 0.0, 1.0),
    "TH DH": (0.25, 0.55, 0.0, 0.5, 0.9, 0.0),
    "T D N": (0.22, 0.6, 0.0, 0.7, 0.4, 0.0),
    "S Z": (0.15, 0.7, 0.0, 1.0, 0.0, 0.0),
    "SH ZH CH JH": (0.22, 0.3, 0.7, 0.9, 0.0, 0.0),
    "L": (0.35, 0.6, 0.0, 0.5, 0.9, 0.0),
    "R": (0.25, 0.35, 0.5, 0.4, 0.1, 0.0),
    "K G NG HH": (0.35, 0.55, 0.0, 0.4, 0.1, 0.0),
    "Y IY": (0.25, 0.95, 0.0, 0.7, 0.1, 0.0),
    "IH EY": (0.38, 0.8, 0.0, 0.6, 0.1, 0.0),
    "EH AE": (0.65, 0.8, 0.0, 0.5, 0.2, 0.0),
    "AH ER": (0.5, 0.55, 0.1, 0.4, 0.1, 0.0),
    "AA AY AW": (0.95, 0.6, 0.05, 0.4, 0.2, 0.0),
    "AO OY OW": (0.7, 0.3, 0.7, 0.2, 0.0, 0.0),
    "UH": (0.35, 0.3, 0.6, 0.2, 0.0, 0.0),
    "UW W": (0.2, 0.1, 1.0, 0.0, 0.0, 0.0),
}
SHAPES = {phone: np.array(shape) for phones, shape in VISEMES.items() for phone in phones.split()}
# Diphthongs end as another vowel does.
ENDINGS = {"AY": "IH", "EY": "IY", "OY": "IH", "AW": "UH", "OW": "UW"}
REST = np.array((0.02, 0.5, 0.05, 0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Face:
    """Colours in [0, 1], places in pixels, and what a camera adds; drawn once an utterance."""

    skin: np.ndarray
    lips: np.ndarray
    width: float
    height: float
    fullness: float
    centre: tuple[float, float]
    angle: float
    light: tuple[float, float]
    blur: float
    noise: float
    opening: float

    @classmethod
    def drawn(cls, name: str) -> Face:
        """Return the face of a speaker's utterance: the same name has the same face."""
        generator = np.random.default_rng(int.from_bytes(sha256(name.encode()).digest()[:8], "little"))
        tone = generator.uniform(0.25, 0.85)
        skin = np.array((tone, tone * 0.8, tone * 0.68))
        return cls(
            skin=skin,
            lips=skin * np.array((generator.uniform(0.85, 1.05), 0.62, 0.66)),
            width=generator.uniform(22, 30),
            height=generator.uniform(14, 22),
            fullness=generator.uniform(3.0, 6.5),
            centre=(48 + generator.normal(0, 2), 48 + generator.normal(0, 2)),
            angle=generator.normal(0, 0.06),
            light=(generator.normal(0, 0.15), generator.normal(0, 0.15)),
            blur=generator.uniform(0.4, 1.2),
            noise=generator.uniform(0.005, 0.03),
            opening=generator.uniform(0.8, 1.2),
        )


class Aligner:
    """PocketSphinx: which phone is said when."""

    def __init__(self) -> None:
        self._decoder = Decoder(loglevel="FATAL")

    def __call__(self, wave: np.ndarray, text: str) -> list[tuple[str, int, int]] | None:
        """Return (phone, first frame, frames) at 100 Hz; None for unknown words and texts that do not fit."""
        words = re.findall(r"[a-z']+", text.lower().replace("’", "'"))
        if not words or any(self._decoder.lookup_word(word) is None for word in words):
            return None
        samples = (np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes()
        self._decoder.set_align_text(" ".join(words))
        if not self._decode(samples) or self._decoder.hyp() is None:
            return None
        # The first pass found the words, the second finds their phones.
        self._decoder.set_alignment()
        if not self._decode(samples):
            return None
        return [(phone.name, phone.start, phone.duration) for word in self._decoder.get_alignment() for phone in word]

    def _decode(self, samples: bytes) -> bool:
        self._decoder.start_utt()
        self._decoder.process_raw(samples, full_utt=True)
        try:
            self._decoder.end_utt()
        except RuntimeError:
            # The words do not fit into the sound.
            return False
        return True


def lip_track(phones: list[tuple[str, int, int]], wave: np.ndarray) -> np.ndarray:
    """Return the shapes (F, 6) of a mouth at 25 Hz."""
    frames = len(wave) * FRAMES_PER_SECOND // SAMPLE_RATE
    track = np.tile(REST, (frames, 1))
    for name, start, count in phones:
        if name in SHAPES:
            track[start : start + count] = SHAPES[name]
            if name in ENDINGS:
                track[start + count // 2 : start + count] = SHAPES[ENDINGS[name]]
    # Lips move ahead of the sound and take some 60 ms; a closure is made in full all the same.
    smooth = gaussian_filter1d(np.roll(track, -2, axis=0), sigma=3.5, axis=0, mode="nearest")
    closed = gaussian_filter1d((track[:, 0] == 0).astype(float), sigma=1.5, mode="nearest")
    smooth[:, 0] *= 1 - np.clip(1.6 * closed, 0, 1)
    hop = SAMPLE_RATE // FRAMES_PER_SECOND
    level = np.sqrt(np.square(wave[: frames * hop].reshape(frames, hop)).mean(axis=1))
    level = gaussian_filter1d(level / (np.quantile(level, 0.95) + 1e-4), sigma=4, mode="nearest")
    smooth[:, 0] *= 0.6 + 0.5 * np.clip(level, 0, 1.2)
    step = FRAMES_PER_SECOND // PICTURES_PER_SECOND
    return smooth[step // 2 :: step]


def draw(shape: np.ndarray, face: Face, generator: np.random.Generator) -> np.ndarray:
    """Return one picture (96, 96, 3) uint8."""
    jaw, spread, rounded, teeth, tongue, tucked = shape
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(float)
    x, y = columns - face.centre[0], rows - face.centre[1]
    x, y = x * np.cos(face.angle) + y * np.sin(face.angle), y * np.cos(face.angle) - x * np.sin(face.angle)
    half = face.width * (0.62 + 0.45 * spread - 0.3 * rounded)
    gap = max(0.4, face.height * jaw * face.opening)
    # Within the corners of the mouth, the profile of both lips: 1 in the middle, 0 at the corners.
    profile = np.sqrt(np.clip(1 - (x / half) ** 2, 0, 1))
    thick = face.fullness * (1 + 0.5 * rounded)
    upper, lower = -0.35 * gap * profile, 0.65 * gap * profile
    bow = 1.2 * np.exp(-((x / 4) ** 2))
    top = upper - thick * (0.8 + 0.2 * rounded) * profile + bow * profile
    bottom = lower + thick * (1 - 0.7 * tucked) * profile
    shade = 1 + 0.1 * np.sin(rows / 17) - 0.15 * np.exp(-((y + 26) ** 2) / 60 - (x / 9) ** 2)
    picture = face.skin * shade[..., None]
    lip = ((y > top) & (y < bottom) & (profile > 0))[..., None]
    picture = np.where(lip, face.lips * (1 - 0.25 * ((y - top) / (bottom - top + 1e-3))[..., None]), picture)
    inside = (y > upper) & (y < lower) & (profile > 0.08)
    picture = np.where(inside[..., None], 0.08, picture)
    tooth = inside & (y < upper + teeth * min(5.0, 0.5 * gap + 1))
    picture = np.where(tooth[..., None], 0.85 * face.skin.max() + 0.1, picture)
    tip = inside & (((x / (0.55 * half)) ** 2 + ((y - lower.max()) / (0.2 + 0.8 * tongue * gap)) ** 2) < 1)
    picture = np.where((tip & ~tooth)[..., None], face.lips * 0.9, picture)
    picture = picture * (1 + face.light[0] * x / SIZE + face.light[1] * y / SIZE)[..., None]
    picture = gaussian_filter(picture, (face.blur, face.blur, 0))
    picture = picture + generator.normal(0, face.noise, picture.shape)
    return (255 * np.clip(picture, 0, 1)).astype(np.uint8)


def write_mouth(row: dict, path: Path, aligner: Aligner) -> bool:
    """Draw and write the mouth of one utterance; return whether its phones were found."""
    wave = read_audio(STARTER_ROOT / row["path"], SAMPLE_RATE).numpy()
    phones = aligner(wave, row["text"])
    if phones is None:
        return False
    face, generator = Face.drawn(row["id"]), np.random.default_rng(len(wave))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (draw(shape, face, generator) for shape in lip_track(phones, wave)))
    return True


def chosen_rows(splits: list[str], limit: int | None) -> list[dict]:
    """Return the starter corpus's lines of the utterances that are drawn, the first `limit` of each split."""
    rows = [row for row, _, _ in read_rows(STARTER_ROOT / "starter.jsonl")]
    targets = {trial.target for trial in read_trials(STARTER_ROOT / "tse_trials.jsonl")}
    english = [row for row in rows if row["language"].startswith("en")]
    wanted = [row for row in english if row["split"] in ("train", "dev") or row["id"] in targets]
    return [row for split in splits for row in [row for row in wanted if row["split"] == split][:limit]]


def main() -> None:
    """Draw the mouths of the splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--limit", type=int, help="draw the first so many utterances of each split alone")
    options = parser.parse_args()
    rows, aligner, clips = chosen_rows(options.splits, options.limit), Aligner(), []
    for row in tracked(rows, "draw mouths", "utterances"):
        clip = {key: row[key] for key in ("id", "speaker", "text", "language")} | {"split": SPLITS[row["split"]]}
        clip |= {"video": f"video/{row['id']}.mp4", "audio": f"audio/{row['id']}{Path(row['path']).suffix}"}
        video, audio = options.out / clip["video"], options.out / clip["audio"]
        if video.exists() or write_mouth(row, video, aligner):
            audio.parent.mkdir(parents=True, exist_ok=True)
            # With its time, by which stored tokens know it.
            shutil.copy2(STARTER_ROOT / row["path"], audio)
            clips.append(clip)
    with atomic_path(options.out / "clips.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(clip, ensure_ascii=False) + "\n" for clip in clips), encoding="utf-8")
    print(f"{len(clips)} of {len(rows)} utterances: the words of the others are in no dictionary, or do not fit")


if __name__ == "__main__":
    main()
