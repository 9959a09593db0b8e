"""Lists LibriSpeech as published, and tests TTS on it.

`<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac`, and beside them `<speaker>-<chapter>.trans.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, inspect_file, manifest_row
from metis_lightning.data.manifest.test_sets import TestSets, hash_order, read_signals, require_files
from metis_lightning.data.media.storage import files_stamp, is_hidden, require_folder, visible_in
from metis_lightning.errors import UserError
from metis_lightning.texts import clean_text, read_lines
from metis_lightning.types import TestItem, Trial

LICENSE = "CC-BY-4.0"


@dataclass(frozen=True)
class LibriSpeechScan(CorpusScan):
    """Lists LibriSpeech, a speaker at a time: of `root`, the folder of `train-clean-100` and the like, some or all."""

    root: str
    subsets: tuple[str, ...] = ()
    decode: bool = True
    layout = "<subset>/<speaker>/<chapter>/*.flac"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each speaker."""
        require_folder(self.root)
        lists = (path for path in Path(self.root).glob("*/*/*/*.trans.txt") if not is_hidden(path.name))
        folders = dict.fromkeys(sorted(path.parent.parent for path in lists))
        chosen = [path for path in folders if not self.subsets or path.parent.name in self.subsets]
        return [
            Shard(path.relative_to(self.root).as_posix(), files_stamp(*sorted(path.glob("*/*")))) for path in chosen
        ]

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield a speaker's utterances."""
        for chapter in visible_in(Path(self.root) / shard.name):
            texts = read_transcripts(chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt")
            audio = {path.stem for path in visible_in(chapter) if path.suffix == ".flac"}
            for utterance_id in sorted(texts.keys() | audio):
                yield self._row(chapter, utterance_id, texts.get(utterance_id))

    def _row(self, chapter: Path, utterance_id: str, text: str | None) -> Row | Fault:
        path = chapter / f"{utterance_id}.flac"
        where = path.relative_to(self.root).as_posix()
        if text is None:
            return Fault(where, "missing pair", "audio without a line in .trans.txt")
        info = inspect_file(path, where, self.decode)
        if isinstance(info, Fault):
            return info
        subset, speaker = where.split("/")[:2]
        split, source = subset.split("-")[0], f"LibriSpeech {subset}"
        return manifest_row(
            utterance_id, where, info, speaker=speaker, text=text, split=split, source=source, license=LICENSE
        )


def read_transcripts(path: Path) -> dict[str, str]:
    """Map the utterances of a chapter to their texts, from lines `<id> <TEXT>`; empty if there is no such file."""
    if not path.is_file():
        return {}
    lines = (line.partition(" ") for line in read_lines(path) if line.strip())
    return {name: clean_text(text) for name, _, text in lines}


@dataclass(frozen=True)
class Transcripts:
    """Texts of LibriSpeech utterances, read chapter by chapter; `root` is the folder of the subsets."""

    root: Path
    _chapters: dict[str, tuple[Path, dict[str, str]]] = field(default_factory=dict)

    def find(self, utterance_id: str) -> tuple[str, Path]:
        """Return what an utterance says, and its recording; a UserError if its chapter, or it, is not there."""
        chapter = utterance_id.rpartition("-")[0]
        if chapter not in self._chapters:
            lists = sorted(self.root.glob(f"*/{chapter.replace('-', '/')}/{chapter}.trans.txt"))
            self._chapters[chapter] = (lists[0].parent, read_transcripts(lists[0])) if lists else (self.root, {})
        folder, texts = self._chapters[chapter]
        if utterance_id not in texts:
            raise UserError(f"no transcript of {utterance_id} below {self.root}; download that subset of LibriSpeech")
        return texts[utterance_id], folder / f"{utterance_id}.flac"


class LibriSpeechTests(TestSets):
    """Zero-shot TTS on a subset of LibriSpeech, by a rule, since the paper does not state its list.

    Of each speaker, the `per_speaker` utterances of 4 to 10 s (as in VALL-E, 2301.02111) whose ids are the smallest by
    SHA-256 are spoken. The prompt is another whole utterance of the speaker of 3 to 10 s, the smallest by the SHA-256
    of both ids. One for each of test-clean's 40 speakers is the size of NaturalSpeech 3's set.
    """

    task = "tts"

    def __init__(self, root: Path, subset: str = "test-clean", per_speaker: int = 1) -> None:
        """Choose the trials of `librispeech-<subset>` by the files' headers; a UserError if there is no such subset."""
        scan = LibriSpeechScan(str(root), (subset,), decode=False)
        self._root, self._rows, trials = Path(root), dict[str, Row](), list[Trial]()
        for shard in scan.shards():
            rows = [row for row in scan.scan(shard) if not isinstance(row, Fault)]
            self._rows |= {row["id"]: row for row in rows}
            # The durations are VALL-E's; a prompt is whole, so that what it says is known.
            targets = sorted((row["id"] for row in rows if 4 <= row["seconds"] <= 10), key=hash_order)
            prompts = [row["id"] for row in rows if 3 <= row["seconds"] <= 10]
            others = {target: [prompt for prompt in prompts if prompt != target] for target in targets}
            for target in [target for target in targets if others[target]][:per_speaker]:
                _, prompt = min((hash_order(target, name), name) for name in others[target])
                trials.append(Trial(target, f"librispeech-{subset}", target=target, enrollment=prompt))
        names = [name for trial in trials for name in (trial.target, trial.enrollment)]
        require_files([self._root / self._rows[name]["path"] for name in names], "LibriSpeech")
        super().__init__(sorted(trials, key=lambda trial: hash_order(trial.id)))

    def load_item(self, trial: Trial) -> TestItem:
        """Read the recording of the text and the prompt; the set has no `mixture`."""
        target, prompt = self._rows[trial.target], self._rows[trial.enrollment]
        signals = read_signals(target=self._root / target["path"], enrollment=self._root / prompt["path"])
        texts = {"text": target["text"], "prompt_text": prompt["text"]}
        return TestItem(trial.id, trial.test_set, target["speaker"], language="en", **texts, **signals)
