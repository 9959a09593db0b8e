"""The DataModule of every corpus that has a manifest: those that `prepare` lists, and a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metis_lightning.data.manifest import read_trials
from metis_lightning.data.module import SpeechDataModule
from metis_lightning.data.recipe import Recipe
from metis_lightning.data.selection import Selection, hold_out, select
from metis_lightning.data.table import UtteranceTable, open_manifest
from metis_lightning.errors import UserError


class PreparedDataModule(SpeechDataModule):
    """Training and validation batches of a manifest, or of what a selection keeps of it.

    Little more than the durations is kept in memory; lines are read when their utterances are heard.
    """

    def __init__(
        self,
        recipe: Recipe,
        manifest: Path | None = None,
        root: str | None = None,
        selection: Selection = Selection(),  # noqa: B008  frozen
        leave_out: Path | None = None,
        **kwargs: Any,  # noqa: ANN401  passed on
    ) -> None:
        """Name the manifest; nothing is read before `setup`.

        Args:
            recipe: makes a training item from an utterance.
            manifest: as `python -m metis_lightning prepare` writes it, or in that format (`data.manifest.parse_row`);
                it must be named.
            root: folder or URL that its paths are relative to; None is the manifest's folder.
            selection: what is kept.
            leave_out: a test list made of the same corpus, such as EmiliaMix's, whose utterances are not trained on.
            kwargs: see `SpeechDataModule`.
        """
        super().__init__(recipe, **kwargs)
        self.manifest, self.corpus_root, self.selection = manifest, root, selection
        self.leave_out = leave_out

    def utterances(self) -> UtteranceTable:
        """Return what is kept, with speakers held out for validation if the corpus has no split for it.

        Raises:
            UserError: if no manifest is named, it is missing, wrong, not the one of its checksum, or nothing is kept.
        """
        if self.manifest is None:
            raise UserError("no corpus: name the manifest that `prepare` wrote with --data.manifest")
        listed = open_manifest(Path(self.manifest), self.corpus_root)
        if self.leave_out is not None:
            listed = listed.where(~listed.is_named(_named(self.leave_out)))
        kept = select(listed, self.selection)
        if not len(kept):
            raise UserError(f"{self.manifest}: nothing is left by {self.selection}; loosen it")
        return hold_out(kept, self.val_split, self.selection.dev_hours)


def _named(path: Path) -> frozenset[str]:
    return frozenset(name for t in read_trials(path) for name in (t.target, t.interferer, t.enrollment))
