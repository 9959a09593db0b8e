"""Lists corpora of talking faces: what LRS3, LRS2 and their preparations share, and users' own videos.

Each is a subclass of `TalkingFaceScan` that reads its lists into entries, and says which files and clip an entry is.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from metis_lightning.data.manifest.records import check_id
from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, manifest_row
from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.inspection import AudioInfo, VideoFault, VideoInfo, inspect_audio, inspect_video
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.mouths import MOUTH_SIZE, NoFaceError, write_mouths
from metis_lightning.data.media.video import VideoSound
from metis_lightning.data.recipes.l2s import check_lengths, read_feature_file
from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import load_json
from metis_lightning.texts import clean_text, on_disk, read_lines
from metis_lightning.types import VIDEO_RATE

LIST_COLUMNS = ("video", "lips", "audio", "text", "speaker", "id", "split", "language")

_SHARD_CLIPS = 250
_FILES = LIST_COLUMNS[:3]


@dataclass(frozen=True)
class AvClip:
    """One clip by its corpus's lists; paths are relative to the root.

    video: the face or the mouth; None if `lips` stands for it.
    audio: a file of the sound; None takes the video's own.
    text: what is said; None if the corpus gives none.
    lips: features (T, 768) that the corpus brings along.
    frames, samples: as the corpus lists them; None if it does not.
    """

    where: str
    id: str
    speaker: str
    split: str
    source: str
    video: str | None = None
    audio: str | None = None
    text: str | None = None
    language: str = "en"
    lips: str | None = None
    frames: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class TalkingFaceScan(CorpusScan):
    """Lists clips whose files are sound and fit together, and on the way crops their mouths.

    `decode` as in `inspect_audio` and `inspect_video`. To `mouths`, if a folder is given, `ID.mp4` with each mouth is
    written, unless it is there already or the video shows a mouth alone.
    """

    root: str
    decode: bool = True
    mouths: str | None = None

    def entries(self) -> Sequence[Any]:
        """Return what the corpus's lists name, in the order of the manifest; folders are listed with their shards."""
        return ()

    @abstractmethod
    def files(self, entry: Any) -> Sequence[Path]:  # noqa: ANN401  each corpus has entries of its own
        """Return the files that decide an entry's row; those that are not there do not matter."""

    @abstractmethod
    def clip(self, entry: Any) -> AvClip | Fault:  # noqa: ANN401
        """Return the clip of an entry."""

    def shards(self) -> Sequence[Shard]:
        """Return pieces of 250 clips."""
        return Shard.numbered(self._entries, _SHARD_CLIPS, self.files)

    def entries_of(self, shard: Shard) -> Sequence[Any]:
        """Return the entries of a piece."""
        return shard.of(self._entries, _SHARD_CLIPS)

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield a piece's utterances."""
        for clip in map(self.clip, self.entries_of(shard)):
            if isinstance(clip, Fault):
                yield clip
                continue
            try:
                yield self._row(clip)
            except AudioFault as fault:
                yield Fault(clip.where, fault.kind, fault.detail)
            except NoFaceError as error:
                yield Fault(clip.where, "no face", str(error))

    @cached_property
    def _entries(self) -> Sequence[Any]:
        return self.entries()

    def __getstate__(self) -> dict[str, Any]:
        """Return the options alone: what was read of lists would travel to the workers with every piece."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _row(self, clip: AvClip) -> Row:
        for path in filter(None, (clip.video, clip.audio, clip.lips)):
            try:
                relative_path(path, clip.where)
            except UserError as error:
                raise AudioFault("wrong field", str(error)) from error
        if clip.text == "":
            raise AudioFault("empty text")
        video = None if clip.video is None else inspect_video(Path(self.root, clip.video), self.decode)
        location, sound = self._sound(clip, video)
        # A clip that was cut or exchanged after it was listed shows in its counts.
        samples = round(sound.seconds * sound.sample_rate)
        counts = (("pictures", clip.frames, video and video.frames), ("samples", clip.samples, samples))
        for name, expected, counted in counts:
            if expected is not None and counted is not None and expected != counted:
                raise VideoFault("wrong length", f"{counted} {name}, listed with {expected}")
        listed = {name: getattr(clip, name) for name in ("speaker", "language", "split", "source")}
        row = manifest_row(clip.id, location, sound, text=clip.text or "", **listed)
        if video is not None:
            _check_pair(video.frames, sound.seconds)
            row |= {"video": clip.video, "frame_rate": round(video.frame_rate, 3), "frames": video.frames}
            self._crop(clip, video)
        if clip.lips is not None:
            row["lips"] = clip.lips
            lips = Path(self.root, clip.lips)
            if not lips.is_file():
                raise AudioFault("missing pair", f"no {lips.name}")
            try:
                count = len(read_feature_file(lips))
            except UserError as error:
                raise AudioFault("wrong features", str(error)) from error
            _check_pair(count, sound.seconds)
        return row

    def _sound(self, clip: AvClip, video: VideoInfo | None) -> tuple[object, AudioInfo]:
        if clip.audio is not None:
            path = Path(self.root, clip.audio)
            if not path.is_file():
                raise AudioFault("missing pair", f"no {clip.audio}")
            return clip.audio, inspect_audio(path.read_bytes(), self.decode)
        if clip.video is None or video is None or not video.sound:
            raise AudioFault("no sound", "neither a file nor a track in the video")
        try:
            wave, rate = VideoSound(str(Path(self.root, clip.video))).frames()
        except UserError as error:
            raise AudioFault("unreadable audio", str(error)) from error
        # Decoded by FFmpeg, not by libsndfile: `inspect_audio` cannot tell.
        if not wave.size:
            raise AudioFault("no samples")
        if not np.isfinite(wave).all():
            raise AudioFault("NaN or infinite samples")
        if not wave.any():
            raise AudioFault("silence only")
        return {"video": clip.video}, AudioInfo(len(wave) / rate, rate, wave.shape[1])

    def _crop(self, clip: AvClip, video: VideoInfo) -> None:
        if self.mouths is None or clip.video is None or (video.width, video.height) == (MOUTH_SIZE, MOUTH_SIZE):
            return
        # The id becomes a file's name before the row is checked.
        try:
            check_id(clip.id, "id", clip.where)
        except UserError as error:
            raise VideoFault("wrong field", str(error)) from error
        path = Path(self.mouths) / f"{clip.id}.mp4"
        if not path.is_file():
            write_mouths(Path(self.root, clip.video), path)


def _check_pair(frames: int, seconds: float) -> None:
    if not check_lengths(frames, seconds):
        raise VideoFault(
            "sound and pictures differ in length", f"{frames / VIDEO_RATE:.2f} s are seen, {seconds:.2f} s are heard"
        )


def read_words(path: Path, where: str) -> str | Fault:
    """Return the words of a text file, empty if there are none; a file that is not UTF-8 is a fault."""
    try:
        return words_of(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return Fault(where, "not UTF-8", f"{path.name}: {error}")


def words_of(text: str) -> str:
    r"""Return the words of an LRS text's first line, after `Text:` if it starts so, without braces.

    >>> words_of("Text:  SO {LG} WHAT IS IT\nConf:  4\n")
    'SO LG WHAT IS IT'
    """
    first_line = text.removeprefix("\ufeff").split("\n")[0]
    words = first_line.removeprefix("Text:")
    return clean_text(words.replace("{", " ").replace("}", " "))


@dataclass(frozen=True)
class CustomVideoScan(TalkingFaceScan):
    """Lists users' own talking faces by a list of theirs; entries are its lines, with their numbers.

    list: `.jsonl`, or `.csv` with a header, a clip a line: `video` (a face, or a mouth in 96 x 96) or `lips` (features
        (T, 768) at 25 Hz, .npy or .safetensors), `audio` (else the video's own sound), `text`, `speaker` (else each
        clip is its own), `id` (else the video's path), `split` (else train), `language` (else en). Paths are relative
        to the root.
    """

    list: Path = Path("clips.csv")
    layout = "a list of clips that has a line"

    def entries(self) -> Sequence[tuple[int, dict[str, Any]]]:
        """Return the lines, with paths as the disk has them, whatever system wrote the list."""
        root, entries = Path(self.root), []
        for number, line in enumerate(read_list(self.list), start=1):
            paths = {key: on_disk(root / line[key]) for key in _FILES if line.get(key) and isinstance(line[key], str)}
            below = {key: path for key, path in paths.items() if path.is_relative_to(root) and ".." not in path.parts}
            entries.append((number, line | {key: path.relative_to(root).as_posix() for key, path in below.items()}))
        return entries

    def files(self, entry: tuple[int, dict[str, Any]]) -> Sequence[Path]:
        """Return the files of a line, and the list: texts and speakers stand in it."""
        line = entry[1]
        return [self.list, *(Path(self.root) / str(line[key]) for key in _FILES if line.get(key))]

    def clip(self, entry: tuple[int, dict[str, Any]]) -> AvClip | Fault:
        """Return the clip of a line."""
        where = f"{self.list.name} clip {entry[0]}"
        filled = {key: value for key, value in entry[1].items() if value not in (None, "")}
        if wrong := [key for key, value in filled.items() if not isinstance(value, str)]:
            return Fault(where, "wrong field", f"{', '.join(wrong)} must be text")
        picture = filled.get("video") or filled.get("lips")
        if picture is None:
            return Fault(where, "missing pair", "neither video nor lips")
        # Macs write letters and their accents as two signs; an id is the same on every system.
        stem = unicodedata.normalize("NFC", PurePosixPath(picture).with_suffix("").as_posix())
        utterance_id = filled.get("id", re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("."))
        defaults = {"id": utterance_id, "speaker": utterance_id, "split": "train"}
        return AvClip(where=where, source="own video", **{**defaults, **filled})


def read_list(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a user's list; a UserError if there is none, it is not UTF-8, or has unknown columns."""
    columns = ", ".join(LIST_COLUMNS)
    if not path.is_file():
        raise UserError(f"{path}: no such list; give --list a .jsonl or .csv with the columns {columns}")
    try:
        if path.suffix == ".jsonl":
            lines = [load_json(line) for line in read_lines(path) if line.strip()]
        elif path.suffix == ".csv":
            # Spreadsheets start their files with a byte-order mark, and quote texts with line breaks.
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = list(csv.DictReader(file))
        else:
            raise UserError(f"{path}: a list ends with .jsonl or .csv")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not UTF-8 {path.suffix.lstrip('.')} ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or (unknown := sorted(set(map(str, line)) - set(LIST_COLUMNS))):
            what = "no object" if not isinstance(line, dict) else f"unknown columns {', '.join(unknown)}"
            raise UserError(f"{path}: clip {number} has {what}; the columns are {columns}")
    return lines
