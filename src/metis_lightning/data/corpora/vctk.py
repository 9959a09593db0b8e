"""Lists VCTK as published, and tests voice conversion on it.

0.92 has `wav48_silence_trimmed/p225/p225_001_mic1.flac`, 0.80 `wav48/p225/p225_001.wav`; both `txt/p225/p225_001.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, inspect_file, manifest_row
from metis_lightning.data.manifest.test_sets import TestSets, hash_order, read_signals
from metis_lightning.data.media.storage import files_stamp, is_hidden, require_folder
from metis_lightning.data.recipes.prompts import same_words
from metis_lightning.errors import UserError
from metis_lightning.texts import clean_text
from metis_lightning.types import TestItem, Trial

_LAYOUTS = (("wav48_silence_trimmed", "_mic1.flac"), ("wav48", ".wav"))


@dataclass(frozen=True)
class VctkScan(CorpusScan):
    """Lists VCTK, a speaker at a time, of two microphones the first; `root` is the folder of `txt` and the audio."""

    root: str
    decode: bool = True
    layout = "wav48_silence_trimmed/<speaker>/*_mic1.flac or wav48/<speaker>/*.wav"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each speaker."""
        folders = sorted({path.parent for path in _recordings(Path(self.root))})
        texts = Path(self.root) / "txt"
        files = [[*sorted(path.iterdir()), *sorted((texts / path.name).glob("*"))] for path in folders]
        return [Shard(path.name, files_stamp(*of_speaker)) for path, of_speaker in zip(folders, files, strict=True)]

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield a speaker's utterances; a recording without text (one speaker of 0.92 has none) is listed without."""
        for path in _recordings(Path(self.root), shard.name):
            where = path.relative_to(self.root).as_posix()
            info = inspect_file(path, where, self.decode)
            if isinstance(info, Fault):
                yield info
                continue
            name = path.stem.removesuffix("_mic1")
            text = _read_text(Path(self.root), name) or ""
            yield manifest_row(
                name, where, info, speaker=shard.name, text=text, split="train", source="VCTK", license="CC-BY-4.0"
            )


class VctkTests(TestSets):
    """Voice conversion on VCTK: random sources, each with a prompt of another speaker that says other words.

    The paper takes 200 and, read literally, a prompt of the *same* speaker, as `same_speaker` does, with which nothing
    would be converted. Here sources and prompts are the smallest by the SHA-256 of their ids and the seed.
    """

    task = "vc"

    def __init__(self, root: Path, count: int = 200, seed: int = 0, same_speaker: bool = False) -> None:
        """Choose the trials of the test set `vctk`; a UserError if fewer than `count` have a text and a prompt."""
        self._root = Path(root)
        recordings = {path.stem.removesuffix("_mic1"): path for path in _recordings(self._root)}
        texts = {name: _read_text(self._root, name) for name in recordings}
        self._texts = {name: text for name, text in texts.items() if text is not None}
        self._files = {name: recordings[name] for name in self._texts}
        sources = sorted(self._files, key=lambda name: hash_order(seed, name))[:count]
        if len(sources) < count:
            raise UserError(f"{root}: {len(sources)} recordings with texts, {count} are wanted; is VCTK complete?")
        super().__init__(self._trial(source, seed, same_speaker) for source in sources)

    def load_item(self, trial: Trial) -> TestItem:
        """Read the source as `mixture` and the wanted voice's prompt as `enrollment`."""
        signals = read_signals(mixture=self._files[trial.target], enrollment=self._files[trial.enrollment])
        text, prompt = self._texts[trial.target], self._texts[trial.enrollment]
        wanted = trial.enrollment.split("_")[0]
        return TestItem(trial.id, trial.test_set, wanted, text, "en", prompt_text=prompt, **signals)

    def _trial(self, source: str, seed: int, same_speaker: bool) -> Trial:
        others, speaker = [name for name in self._files if name != source], source.split("_")[0]
        voices = [name for name in others if (name.split("_")[0] == speaker) == same_speaker]
        # Sentences 1 to 24 are read by everyone: a prompt that says the source's words would give them away.
        ordered = sorted(voices, key=lambda name: hash_order(seed, source, name))
        prompt = next((name for name in ordered if not same_words(self._texts[name], self._texts[source])), None)
        if prompt is None:
            raise UserError(f"{self._root}: no prompt for {source} that says other words; is VCTK complete?")
        return Trial(f"{source}_by_{prompt}", "vctk", target=source, enrollment=prompt)


def _recordings(root: Path, speaker: str = "*") -> list[Path]:
    require_folder(root, "VCTK")
    for folder, suffix in _LAYOUTS:
        if paths := sorted(path for path in root.glob(f"{folder}/{speaker}/*{suffix}") if not is_hidden(path.name)):
            return paths
    return []


def _read_text(root: Path, name: str) -> str | None:
    path = root / "txt" / name.split("_")[0] / f"{name}.txt"
    if not path.is_file():
        return None
    # Some texts of 0.80 hold bytes that are no UTF-8.
    return clean_text(path.read_bytes().decode("utf-8", errors="replace"))
