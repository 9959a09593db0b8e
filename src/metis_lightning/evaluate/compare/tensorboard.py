"""Systems side by side in TensorBoard: one run each, with the same tags."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from metis_lightning.evaluate.compare.clips import ClipSet, difference_picture
from metis_lightning.evaluate.html.document import picture
from metis_lightning.evaluate.results.comparison import Comparison
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.summary import word_error_rule
from metis_lightning.evaluate.tables.layout import TableValue
from metis_lightning.types import WAVE_RATE


@dataclass(frozen=True)
class Board:
    """Logs utterances to one writer for each system; `scales` has the factors of metrics to their units.

    Tags, the same in every run: `{metric}/{test set}` (the mean), `utterances/{test set}/{metric}` (a point each, in
    the order of the page), `audio/…`, `mel/…` and `difference/…` with `{test set}/{id}`.
    """

    writers: Mapping[str, SummaryWriter]
    scales: Mapping[str, float]
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, clips: ClipSet) -> None:
        """Log one utterance for every system that has it."""
        utterance = clips.utterance
        place = f"{utterance.test_set}/{utterance.id}"
        # Scalars of utterances have the place in the order of the page as their step.
        step = self.counts[utterance.test_set]
        self.counts[utterance.test_set] += 1
        for system, entry in utterance.entries.items():
            for metric, value in entry.row.metrics.items():
                if value is not None:
                    tag = f"utterances/{utterance.test_set}/{metric}"
                    self.writers[system].add_scalar(tag, self.scales.get(metric, 1.0) * value, step)
        for system, clip in clips.clips.items():
            writer = self.writers[system]
            writer.add_audio(f"audio/{place}", clip.wave.clamp(-1, 1)[None], 0, sample_rate=WAVE_RATE)
            writer.add_image(f"mel/{place}", picture(clip.mel, clips.top), 0, dataformats="HWC")
            if clip.difference is not None:
                writer.add_image(f"difference/{place}", difference_picture(clip.difference), 0, dataformats="HWC")


@contextmanager
def open_board(folder: Path, comparison: Comparison) -> Iterator[Board]:
    """Write `FOLDER/SYSTEM/` for each system, in the place of the events there once everything is written."""
    names = folder_names(list(comparison.results))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
        writers = {system: SummaryWriter(str(Path(temporary) / name)) for system, name in names.items()}
        try:
            for system, writer in writers.items():
                _log_results(writer, comparison.results[system])
            yield Board(writers, {name: summary.column.scale for name, summary in comparison.metrics.items()})
        finally:
            for writer in writers.values():
                writer.close()
        # Of what is in a system's folder, only events go.
        for name in names.values():
            (folder / name).mkdir(exist_ok=True)
            for old in (folder / name).glob("events.out.tfevents.*"):
                old.unlink()
            for new in (Path(temporary) / name).glob("events.out.tfevents.*"):
                new.replace(folder / name / new.name)


def folder_names(systems: Sequence[str]) -> dict[str, str]:
    """Return a folder's name for each system: one plain part of a path, whatever the system is called.

    >>> folder_names(["nano", "a/b", "..", "a?b"])
    {'nano': 'nano', 'a/b': 'a_b', '..': '_.', 'a?b': 'a_b_2'}
    """
    names: dict[str, str] = {}
    for system in systems:
        plain = re.sub(r"^\.", "_", re.sub(r"[^\w.,=+-]", "_", system))[:100] or "_"
        count = 1 + sum(re.fullmatch(rf"{re.escape(plain)}(_\d+)?", name) is not None for name in names.values())
        names[system] = plain if count == 1 else f"{plain}_{count}"
    return names


def _log_results(writer: SummaryWriter, results: Sequence[Result]) -> None:
    """Log a system's means, and what they were reached with, for the table of HParams."""
    means: dict[str, float] = {}
    for result in results:
        for metric, summary in result.metrics.items():
            mean = TableValue.of(summary, word_error_rule(result.test_set)).mean
            if mean is not None:
                means[f"{metric}/{result.test_set}"] = mean
                writer.add_scalar(f"{metric}/{result.test_set}", mean, 0)
    first = results[0]
    settings = {**first.protocol.settings, "system": first.system, "run": first.run, "protocol": first.protocol.mark}
    for key, value in first.identity.items():
        settings[key] = value if isinstance(value, (int, float)) else str(value)
    for summary in hparams(settings, means):
        # In the run itself: `add_hparams` would make a run of its own beside it.
        writer._get_file_writer().add_summary(summary)
