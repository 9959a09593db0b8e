"""The DataModule of every corpus that `prepare` has listed: Emilia, LibriMix, DNS, LibriSpeech, VCTK."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metis_lightning.data.manifest import check_manifest, read_trials, stream_manifest
from metis_lightning.data.module import SpeechDataModule
from metis_lightning.data.recipe import Recipe
from metis_lightning.data.selection import Selection, hold_out, select
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


class PreparedDataModule(SpeechDataModule):
    """Training and validation batches of a prepared manifest, or of what a selection keeps of it."""

    def __init__(
        self,
        recipe: Recipe,
        manifest: Path,
        root: str | None = None,
        selection: Selection = Selection(),  # noqa: B008  frozen
        leave_out: Path | None = None,
        **kwargs: Any,  # noqa: ANN401  passed on
    ) -> None:
        """Name the manifest; nothing is read before `setup`.

        Args:
            recipe: makes a training item from an utterance.
            manifest: written by `python -m metis_lightning prepare`.
            root: folder or URL that it was prepared with; None is the manifest's folder.
            selection: what is kept.
            leave_out: a test list made of the same corpus, such as EmiliaMix's, whose utterances are not trained on.
            kwargs: see `SpeechDataModule`.
        """
        super().__init__(recipe, **kwargs)
        self.manifest, self.corpus_root, self.selection = Path(manifest), root, selection
        self.leave_out = leave_out

    def utterances(self) -> list[Utterance]:
        """Return what is kept, with speakers held out for validation if the corpus has no split for it.

        Raises:
            UserError: if the manifest is missing, wrong, not the one of its checksum, or nothing is kept.
        """
        check_manifest(self.manifest)
        tested = frozenset[str]() if self.leave_out is None else _named(self.leave_out)

        def read() -> Iterable[Utterance]:
            listed = stream_manifest(self.manifest, self.corpus_root)
            return (utterance for utterance in listed if utterance.id not in tested)

        kept = list(select(read, self.selection, self.train_split))
        if not kept:
            raise UserError(f"{self.manifest}: nothing is left by {self.selection}; loosen it")
        return hold_out(kept, self.selection, self.val_split)


def _named(path: Path) -> frozenset[str]:
    return frozenset(name for t in read_trials(path) for name in (t.target, t.interferer, t.enrollment))
