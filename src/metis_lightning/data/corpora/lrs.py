"""Lists LRS3 (1809.00496) and LRS2: as their authors gave them out, or as AV-HuBERT or Auto-AVSR prepared them.

LRS3: `{pretrain,trainval,test}/<youtube id>/<n>.{mp4,txt}`, a text's first line being `Text:  WORDS IN CAPITALS`.

LRS2: `mvlrs_v1/{main,pretrain}/<number>/<n>.{mp4,txt}`, and the lists `train.txt`, `val.txt`, `test.txt` and
`pretrain.txt` beside or in that folder, a clip a line, `<number>/<n>`, perhaps with a tag after it.

AV-HuBERT's preparation (2201.02184) has mouths as `video/<id>.mp4` and sound as `audio/<id>.wav`. Auto-AVSR's
(2303.14307), the one that Metis's lip to speech follows, has lists in `labels/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from metis_lightning.data.corpora.av_corpus import AvClip, TalkingFaceScan, read_words, words_of
from metis_lightning.data.manifest.scan import Fault, Shard
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.storage import files_stamp, require_folder, visible_in
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path, read_lines

_LRS3_SPLITS = {"pretrain": "train", "trainval": "train", "test": "test"}
_LRS2_SPLITS = {"pretrain": "train", "train": "train", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class RawLrsScan(TalkingFaceScan):
    """Lists pairs of mp4 and txt; entries are their path without suffix, the clip's id, its split and its source."""

    def files(self, entry: tuple[Path, str, str, str]) -> Sequence[Path]:
        """Return the video, the text, and the sound that may lie beside them."""
        return [Path(f"{entry[0]}{suffix}") for suffix in (".mp4", ".txt", ".wav")]

    def clip(self, entry: tuple[Path, str, str, str]) -> AvClip | Fault:
        """Return the clip of an entry; a .wav goes before the video's sound."""
        base, name, split, source = entry
        where = "/".join(base.parts[-3:])
        video, text, audio = self.files(entry)
        try:
            # The root may be above `mvlrs_v1`.
            below = relative_path(base.relative_to(self.root).as_posix(), where)
        except (UserError, ValueError) as error:
            return Fault(where, "wrong field", str(error))
        if missing := [path.name for path in (video, text) if not path.is_file()]:
            return Fault(where, "missing pair", f"no {missing[0]}")
        words = read_words(text, where)
        if isinstance(words, Fault):
            return words
        sound = f"{below}.wav" if audio.is_file() else None
        return AvClip(where, name, base.parent.name, split, source, f"{below}.mp4", sound, words)


@dataclass(frozen=True)
class Lrs3Scan(RawLrsScan):
    """Lists raw LRS3, a speaker (a YouTube id) at a time."""

    layout = "{pretrain,trainval,test}/<youtube id>/<n>.mp4 and .txt"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each folder of clips."""
        folders = [path for subset in _LRS3_SPLITS for path in visible_in(Path(self.root) / subset) if path.is_dir()]
        listed = [(path.relative_to(self.root).as_posix(), visible_in(path)) for path in folders]
        return [Shard(name, files_stamp(*files)) for name, files in listed if files]

    def entries_of(self, shard: Shard) -> Sequence[tuple[Path, str, str, str]]:
        """Return the clips of a folder."""
        subset, speaker = shard.name.split("/")
        folder, split = Path(self.root) / shard.name, _LRS3_SPLITS[subset]
        stems = sorted({path.stem for path in visible_in(folder) if path.suffix in {".mp4", ".txt"}})
        return [(folder / stem, f"{subset}_{speaker}_{stem}", split, f"LRS3 {subset}") for stem in stems]


@dataclass(frozen=True)
class Lrs2Scan(RawLrsScan):
    """Lists raw LRS2; a speaker is one of its numbered folders. `root` is `mvlrs_v1` or the folder above."""

    layout = "mvlrs_v1/main/<number>/<n>.mp4, and train.txt, val.txt, test.txt or pretrain.txt beside mvlrs_v1"

    def entries(self) -> Sequence[tuple[Path, str, str, str]]:
        """Return the clips of all lists."""
        root, inner = Path(self.root), Path(self.root) / "mvlrs_v1"
        corpus, entries = inner if inner.is_dir() else root, []
        for name, split in _LRS2_SPLITS.items():
            folder = "pretrain" if name == "pretrain" else "main"
            path = next((p for p in (corpus.parent / f"{name}.txt", corpus / f"{name}.txt") if p.is_file()), None)
            lines = [] if path is None else read_lines(path)
            for clip in (posix_path(line.split()[0]) for line in lines if line.strip()):
                entries.append((corpus / folder / clip, f"{folder}_{clip.replace('/', '_')}", split, f"LRS2 {name}"))
        return entries


# The longer list of the two; what both have is listed once.
_HUBERT_TABLES = ("433h_data", "30h_data")
_HUBERT_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


@dataclass(frozen=True)
class AvHubertScan(TalkingFaceScan):
    """Lists AV-HuBERT's preparation; entries are clips, whose split is the tables', or without them the folder's.

    `file.list` and `label.list` hold ids and words line by line; the tables hold them too, with counts of pictures and
    samples after paths that are the preparing machine's, and are not used. An id is `<folder>/<youtube id>/<n>`, where
    the folder is `trainval`, `test` or, cut at pauses, `short-pretrain`.
    """

    layout = "file.list and label.list, or 433h_data/train.tsv and .wrd"

    def entries(self) -> Sequence[AvClip]:
        """Return the clips of the lists; a table's line goes before that of `file.list`, but for words it lacks."""
        root = Path(self.root)
        texts, clips = _lines(root / "label.list"), dict[str, AvClip]()
        for number, name in enumerate(map(posix_path, _lines(root / "file.list"))):
            clip = _clip_of(name, "test" if name.startswith("test/") else "train")
            clips[name] = replace(clip, text=words_of(texts[number]) if number < len(texts) else None)
        for table in reversed(_HUBERT_TABLES):
            for name, split in _HUBERT_SPLITS.items():
                for clip in _read_table(root / table / f"{name}.tsv", split):
                    before = clips.get(clip.where)
                    text = before.text if clip.text is None and before is not None else clip.text
                    clips[clip.where] = replace(clip, text=text)
        return list(clips.values())

    def files(self, entry: AvClip) -> Sequence[Path]:
        """Return the mouth and the sound of a clip."""
        return [Path(self.root, name) for name in (entry.video, entry.audio) if name]

    def clip(self, entry: AvClip) -> AvClip | Fault:
        """Return a clip if its line is complete."""
        if entry.where.count("/") != 2:
            return Fault(entry.where, "wrong field", "an id has three parts, such as test/UmvOgW6iV2s/00001")
        if entry.text is None:
            return Fault(entry.where, "missing pair", "no line in the list of words")
        return entry


def _read_table(path: Path, split: str) -> Iterator[AvClip]:
    texts = _lines(path.with_suffix(".wrd"))
    # The first line is the preparing machine's folder.
    for number, line in enumerate(_lines(path)[1:]):
        cells = line.split("\t")
        if len(cells) != 5 or not (cells[3].isdecimal() and cells[4].isdecimal()):
            raise UserError(f"{path}:{number + 2}: expected id, two paths and two counts; the file is cut or damaged")
        text = words_of(texts[number]) if number < len(texts) else None
        clip = _clip_of(posix_path(cells[0]), split)
        yield replace(clip, text=text, frames=int(cells[3]), samples=int(cells[4]))


def _clip_of(name: str, split: str) -> AvClip:
    folder, speaker, *_ = f"{name}//".split("/")
    video, audio = f"video/{name}.mp4", f"audio/{name}.wav"
    return AvClip(name, name.replace("/", "_"), speaker, split, f"LRS3 {folder}", video, audio)


def _lines(path: Path) -> list[str]:
    return read_lines(path) if path.is_file() else []


_AUTO_AVSR_LIST = re.compile(r"(\w+?)_(train|val|test)_transcript_lengths_seg\d+s(\.\d+)*\.csv")
_AUTO_AVSR_SPLITS = {"train": "train", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class AutoAvsrScan(TalkingFaceScan):
    """Lists Auto-AVSR's preparation of any of its corpora; entries are clips without their words.

    Its lists have no header and lines `set,path,pictures,token ids`. The path is below the folder `<set>`:
    `<set>_video_seg16s/<folder>/<speaker>/<n>.mp4`, with a .wav beside it (or its sound inside), and the words in
    `<set>_text_seg16s/…/<n>.txt`.
    """

    layout = "labels/lrs3_train_transcript_lengths_seg16s.csv and the like"

    def entries(self) -> Sequence[AvClip]:
        """Return the clips of all lists."""
        clips: list[AvClip] = []
        for path, split in _auto_avsr_lists(Path(self.root)):
            clips += _read_auto_avsr(path, split)
        return clips

    def files(self, entry: AvClip) -> Sequence[Path]:
        """Return the video, the text and the sound of a clip."""
        # lrs3/lrs3_video_seg16s/test/ID/1.mp4 has its words in lrs3/lrs3_text_seg16s/test/ID/1.txt.
        video = PurePosixPath(entry.video or "")
        folder = re.sub(r"_video_", "_text_", video.parts[1], count=1)
        text = PurePosixPath(video.parts[0], folder, *video.parts[2:]).with_suffix(".txt")
        return [Path(self.root) / path for path in (video, text, video.with_suffix(".wav"))]

    def clip(self, entry: AvClip) -> AvClip | Fault:
        """Return a clip with its words, and its sound if that is a file."""
        _, text, audio = self.files(entry)
        if not text.is_file():
            return Fault(entry.where, "missing pair", f"no {text.relative_to(self.root)}")
        words = read_words(text, entry.where)
        if isinstance(words, Fault):
            return words
        # Some preparations put the sound into the video instead.
        return replace(entry, text=words, audio=audio.relative_to(self.root).as_posix() if audio.is_file() else None)


def _auto_avsr_lists(root: Path) -> list[tuple[Path, str]]:
    paths = sorted((root / "labels").glob("*.csv"))
    matches = ((path, _AUTO_AVSR_LIST.fullmatch(path.name)) for path in paths)
    return [(path, _AUTO_AVSR_SPLITS[match[2]]) for path, match in matches if match]


def _read_auto_avsr(path: Path, split: str) -> Iterator[AvClip]:
    for number, line in enumerate(read_lines(path), start=1):
        cells = posix_path(line).split(",")
        where = f"{path}:{number}"
        parts = PurePosixPath(relative_path("/".join(cells[:2]), where)).parts
        if len(cells) != 4 or len(parts) < 5 or not cells[2].isdecimal():
            raise UserError(
                f"{where}: expected set, path, pictures and tokens, as in lrs3,lrs3_video_seg16s/test/ID/1.mp4,62,7 9"
            )
        *_, folder, speaker, name = parts
        clip_id, source = f"{folder}_{speaker}_{PurePosixPath(name).stem}", f"{cells[0].upper()} {folder}"
        video, frames = "/".join(parts), int(cells[2])
        yield AvClip("/".join(parts[2:]), clip_id, speaker, split, source, video=video, frames=frames)


def lrs3_scan(root: str, decode: bool = True, mouths: str | None = None, layout: str = "auto") -> TalkingFaceScan:
    """Return the scan of LRS3, raw or prepared; a UserError if there is no such folder or layout.

    `layout` is `raw`, `avhubert`, `autoavsr`, or `auto`, which looks for the lists of the preparations.
    """
    require_folder(root)
    scans: dict[str, type[TalkingFaceScan]] = {"raw": Lrs3Scan, "avhubert": AvHubertScan, "autoavsr": AutoAvsrScan}
    if layout == "auto":
        is_hubert = Path(root, "file.list").is_file() or any(Path(root, name).is_dir() for name in _HUBERT_TABLES)
        layout = "avhubert" if is_hubert else ("autoavsr" if _auto_avsr_lists(Path(root)) else "raw")
    if layout not in scans:
        raise UserError(f"layout {layout!r}: choose one of auto, {', '.join(scans)}")
    return scans[layout](root, decode, mouths)


def lrs2_scan(root: str, decode: bool = True, mouths: str | None = None) -> TalkingFaceScan:
    """Return the scan of LRS2, raw or by Auto-AVSR's preparation; a UserError if there is no such folder."""
    require_folder(root)
    scan = AutoAvsrScan if _auto_avsr_lists(Path(root)) else Lrs2Scan
    return scan(root, decode, mouths)
