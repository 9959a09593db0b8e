"""Reads Seed-TTS-eval (github.com/BytedanceSpeech/seed-tts-eval): its lists for zero-shot TTS and voice conversion.

`{en,zh}/meta.lst`, `zh/hardcase.lst`, `{en,zh}/non_para_reconstruct_meta.lst`; fields are separated by `|` and paths
are relative to the list: `utt|prompt text|prompt wav|text[|source wav]`, `utt|text|prompt wav` or `utt|text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.manifest.records import check_id
from metis_lightning.data.manifest.test_sets import TestSets, read_signals, require_files
from metis_lightning.data.media.locations import relative_path
from metis_lightning.errors import UserError
from metis_lightning.texts import clean_text, on_disk, posix_path, read_lines
from metis_lightning.types import TestItem, Trial

_LISTS = {
    "seedtts-en": "en/meta.lst",
    "seedtts-zh": "zh/meta.lst",
    "seedtts-hard": "zh/hardcase.lst",
    "seedtts-vc-en": "en/non_para_reconstruct_meta.lst",
    "seedtts-vc-zh": "zh/non_para_reconstruct_meta.lst",
}


@dataclass(frozen=True)
class _SeedTtsLine:
    """A list's line: what is said, the prompt and what it says, and the recording to convert."""

    utterance: str
    text: str
    language: str
    prompt: Path | None = None
    prompt_text: str = ""
    source: Path | None = None
    recording: Path | None = None


class SeedTtsTests(TestSets):
    """`seedtts-{en,zh,hard}` for TTS and `seedtts-vc-{en,zh}` for voice conversion, as far as the lists are there.

    In TTS `enrollment` is the prompt and `target` the recording of the text, `wavs/<utt>.wav`, where there is one. In
    voice conversion `mixture` is the recording whose words are kept and `enrollment` the wanted voice.
    """

    def __init__(self, root: Path) -> None:
        """Read the lists below `seedtts_testset`; a UserError if a line is not of the format, or files are missing."""
        self._lines: dict[str, _SeedTtsLine] = {}
        trials = []
        for test_set, name in _LISTS.items():
            path = Path(root) / name
            lines = list(_read_list(path)) if path.is_file() else []
            files = [file for line in lines for file in (line.prompt, line.source) if file is not None]
            require_files(files, f"Seed-TTS-eval {name}")
            for line in lines:
                task = "tts" if line.source is None else "vc"
                trial = Trial(f"{test_set}_{line.utterance}", test_set, task=task)
                if trial.id in self._lines:
                    raise UserError(f"{path}: {line.utterance!r} occurs twice")
                self._lines[trial.id] = line
                trials.append(trial)
        super().__init__(trials)

    def load_item(self, trial: Trial) -> TestItem:
        """Read the prompt, and what else there is."""
        line = self._lines[trial.id]
        # The lists do not say who speaks; lines with one prompt are of one voice.
        speaker = "" if line.prompt is None else line.prompt.stem
        signals = read_signals(mixture=line.source, target=line.recording, enrollment=line.prompt)
        signals |= {"text": line.text, "language": line.language, "prompt_text": line.prompt_text}
        return TestItem(trial.id, trial.test_set, speaker, **signals)

    def other_names(self, trial: Trial) -> Sequence[str]:
        """Return the list's own name, by which the tools of Seed-TTS-eval store what was generated."""
        utterance = self._lines[trial.id].utterance
        return [utterance, f"{trial.test_set}/{utterance}"]


def _read_list(path: Path) -> Iterator[_SeedTtsLine]:
    folder = path.parent
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where, fields = f"{path}:{number}", [clean_text(field) for field in line.split("|")]
        if not 2 <= len(fields) <= 5:
            raise UserError(f"{where}: expected 2 to 5 fields between `|`, found {len(fields)}")
        utterance = fields[0].removesuffix(".wav")
        check_id(utterance, "utterance", where)
        # The prompt is the third field, the recording to convert the fifth.
        paths = [on_disk(folder / relative_path(posix_path(field), where)) for field in fields[2::2]]
        prompt, source, *_ = *paths, None, None
        if len(fields) < 4:
            yield _SeedTtsLine(utterance, fields[1], folder.name, prompt)
            continue
        recording = folder / "wavs" / f"{utterance}.wav"
        spoken = recording if source is None and recording.is_file() else None
        yield _SeedTtsLine(utterance, fields[3], folder.name, prompt, fields[1], source, spoken)
