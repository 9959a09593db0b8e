"""LibriSpeech as published: `<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac` and `….trans.txt`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, inspect_file
from metis_lightning.data.manifest.test_sets import TestSets, read_signals, require_files
from metis_lightning.data.media.audio import audio_seconds
from metis_lightning.data.media.inspection import AudioInfo
from metis_lightning.data.media.storage import files_stamp, is_hidden, visible_in
from metis_lightning.errors import UserError
from metis_lightning.texts import clean_text, read_lines
from metis_lightning.types import TestItem, Trial

LICENSE = "CC-BY-4.0"


@dataclass(frozen=True)
class LibriSpeechScan(CorpusScan):
    """Lists LibriSpeech, a speaker at a time.

    root: the folder of `train-clean-100` and the like.
    subsets: only these; none means all.
    decode: decode all audio, which finds broken files; else only headers are read.
    """

    root: str
    subsets: tuple[str, ...] = ()
    decode: bool = True

    layout = "<subset>/<speaker>/<chapter>/*.flac"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each speaker."""
        if not Path(self.root).is_dir():
            raise UserError(f"{self.root}: no such folder; --root is the folder of the corpus")
        lists = (path for path in Path(self.root).glob("*/*/*/*.trans.txt") if not is_hidden(path.name))
        folders = sorted(path.parent.parent for path in lists)
        chosen = [path for path in dict.fromkeys(folders) if not self.subsets or path.parent.name in self.subsets]
        return [
            Shard(path.relative_to(self.root).as_posix(), files_stamp(*sorted(path.glob("*/*")))) for path in chosen
        ]

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield a speaker's utterances."""
        for chapter in visible_in(Path(self.root) / shard.name):
            texts = read_transcripts(chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt")
            audio = {path.stem: path for path in visible_in(chapter) if path.suffix == ".flac"}
            for utterance_id in sorted(texts.keys() | audio.keys()):
                yield self._row(chapter, utterance_id, texts.get(utterance_id))

    def _row(self, chapter: Path, utterance_id: str, text: str | None) -> Row | Fault:
        path = chapter / f"{utterance_id}.flac"
        where = path.relative_to(self.root).as_posix()
        if text is None:
            return Fault(where, "missing pair", "audio without a line in .trans.txt")
        found = inspect_file(path, where, self.decode)
        return found if isinstance(found, Fault) else _row(where, utterance_id, text, found)


def _row(where: str, utterance_id: str, text: str, found: AudioInfo) -> Row:
    subset, speaker = where.split("/")[:2]
    return {
        "id": utterance_id,
        "path": where,
        "speaker": speaker,
        "text": text,
        "language": "en",
        "seconds": round(found.seconds, 4),
        "sample_rate": found.sample_rate,
        "channels": found.channels,
        "split": subset.split("-")[0],
        "source": f"LibriSpeech {subset}",
        "license": LICENSE,
    }


def read_transcripts(path: Path) -> dict[str, str]:
    """Map the utterances of a chapter to their texts, from lines `<id> <TEXT>`; empty if there is no such file.

    Raises:
        UserError: if the file is not UTF-8.
    """
    if not path.is_file():
        return {}
    lines = (line.partition(" ") for line in read_lines(path) if line.strip())
    return {name: clean_text(text) for name, _, text in lines}


@dataclass(frozen=True)
class Transcripts:
    """Texts of LibriSpeech utterances, chapter by chapter; `root` is the folder of the subsets."""

    root: Path

    @cached_property
    def _chapters(self) -> dict[str, tuple[Path, dict[str, str]]]:
        return {}

    def text(self, utterance_id: str) -> str:
        """Return what an utterance says.

        Raises:
            UserError: if its chapter, or it, is not there.
        """
        return self._chapter(utterance_id)[1][utterance_id]

    def seconds(self, utterance_id: str) -> float:
        """Return how long an utterance's recording is, by its header.

        Raises:
            UserError: if it is not there.
        """
        return audio_seconds(self._chapter(utterance_id)[0] / f"{utterance_id}.flac")

    def _chapter(self, utterance_id: str) -> tuple[Path, dict[str, str]]:
        """Return the folder of an utterance's chapter, and the chapter's texts."""
        chapter = utterance_id.rpartition("-")[0]
        if chapter not in self._chapters:
            found = sorted(self.root.glob(f"*/{chapter.replace('-', '/')}/{chapter}.trans.txt"))
            self._chapters[chapter] = (found[0].parent, read_transcripts(found[0])) if found else (self.root, {})
        if utterance_id not in self._chapters[chapter][1]:
            raise UserError(f"no transcript of {utterance_id} below {self.root}; download that subset of LibriSpeech")
        return self._chapters[chapter]


class LibriSpeechTests(TestSets):
    """Zero-shot TTS on a subset of LibriSpeech, by a rule, since the paper does not state its list.

    Of each speaker, the utterances of 4 to 10 s whose ids are the smallest by SHA-256 are spoken, as many as asked for
    (VALL-E, 2301.02111, takes those durations). The prompt is another whole utterance of the speaker of 3 to 10 s, the
    smallest by the SHA-256 of both ids. With one utterance for each of test-clean's 40 speakers the set has the size of
    NaturalSpeech 3's, though not its selection.
    """

    task = "tts"

    def __init__(self, root: Path, subset: str = "test-clean", per_speaker: int = 1) -> None:
        """Choose the trials of the test set `librispeech-<subset>`, from durations in the files' headers.

        Raises:
            UserError: if there is no such subset.
        """
        scan = LibriSpeechScan(str(root), (subset,), decode=False)
        self._rows: dict[str, Row] = {}
        trials = []
        for shard in scan.shards():
            rows = [row for row in scan.scan(shard) if not isinstance(row, Fault)]
            self._rows |= {row["id"]: row for row in rows}
            trials += [
                Trial(target, f"librispeech-{subset}", target=target, enrollment=prompt)
                for target, prompt in _choose(rows, per_speaker)
            ]
        self._root = Path(root)
        used = [row for trial in trials for row in (trial.target, trial.enrollment)]
        require_files([self._root / self._rows[name]["path"] for name in used], "LibriSpeech")
        super().__init__(sorted(trials, key=lambda trial: _rank(trial.id)))

    def load_item(self, trial: Trial) -> TestItem:
        """Read the recording of the text and the prompt; the set has no `mixture`."""
        target, prompt = self._rows[trial.target], self._rows[trial.enrollment]
        return TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker=target["speaker"],
            text=target["text"],
            language="en",
            prompt_text=prompt["text"],
            **read_signals(target=self._root / target["path"], enrollment=self._root / prompt["path"]),
        )


def _choose(rows: Sequence[Row], count: int) -> list[tuple[str, str]]:
    """Return the (target, prompt) ids of a speaker."""
    targets = sorted((row["id"] for row in rows if 4 <= row["seconds"] <= 10), key=_rank)
    prompts = [row["id"] for row in rows if 3 <= row["seconds"] <= 10]
    pairs = ((target, [p for p in prompts if p != target]) for target in targets)
    return [(target, min(others, key=lambda p: _rank(f"{target} {p}"))) for target, others in pairs if others][:count]


def _rank(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
