"""The published files of the parts that are to be imported: given one by one, in a folder, or on the model hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.weights.hub import snapshot
from metis_lightning.weights.published.layout import (
    AMPHION,
    BASE,
    LIP_ENCODER,
    PARTS,
    REPOSITORIES,
    SHARED,
    TASKS,
    W2V_BERT,
    PublishedPart,
    Repository,
)

HUB = "hub"
"""As a source: the repositories themselves."""

ENCODER_CONFIG = "config.json"

NAMES = ("base", *(part.name for part in TASKS))
"""What can be chosen; what all tasks share is always imported."""


@dataclass(frozen=True)
class Wanted:
    """What is to be imported.

    source: a folder, `HUB`, or None if every file is given.
    names: of `NAMES`; empty for all whose files are there.
    given: files by part, which go before those of the source: a task is one file, or LoRA and adapter.
    revisions: commit, tag or branch by repository; the newest of the others.
    """

    source: str | None
    names: tuple[str, ...] = ()
    given: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Located:
    """A part and its files, in the layout's order; `commit` of the repository if they come from the hub."""

    part: PublishedPart
    files: tuple[Path, ...]
    commit: str | None = None


def locate(wanted: Wanted) -> list[Located]:
    """Return the files of every part that is wanted and of those that it needs, the base before its LoRAs.

    Raises:
        UserError: naming every file that is missing, or if a name, a folder or a repository is not there.
    """
    parts = _chosen(wanted)
    roots = _hub_roots(wanted, parts) if wanted.source == HUB else _folder_roots(wanted)
    located, missing = [], []
    for part in parts:
        found = _files(part, wanted, roots.get(part.repository, []))
        absent = [path for path in found.files if not path.is_file()]
        if absent and _may_be_absent(part, wanted, absent, found):
            continue
        missing += [str(path) for path in absent]
        located.append(found)
    names = {found.part.name for found in located}
    if BASE.name not in names and any(len(found.files) > 1 and found.part.task for found in located):
        missing.append(BASE.files[0].path)
    if missing:
        raise UserError(
            f"{len(missing)} files are missing: {', '.join(missing)}; name a file that lies elsewhere with --file "
            "PART=PATH, or what is to be imported with --tasks"
        )
    return located


def _chosen(wanted: Wanted) -> list[PublishedPart]:
    """Return the parts to look for."""
    if unknown := [name for name in wanted.names if name not in NAMES]:
        raise UserError(f"--tasks {' '.join(unknown)}: choose from {', '.join(NAMES)}")
    if unknown := [name for name in wanted.given if name not in PARTS]:
        raise UserError(f"--file {' '.join(unknown)}: the parts are {', '.join(sorted(PARTS))}")
    tasks = [part for part in TASKS if not wanted.names or part.name in wanted.names]
    needs_base = not wanted.names or "base" in wanted.names or any(_is_lora(part, wanted) for part in tasks)
    for part in SHARED:
        if len(wanted.given.get(part.name, part.files)) != len(part.files):
            names = ", ".join(file.path for file in part.files)
            raise UserError(f"--file {part.name}: give as many files as are published, {names}, in this order")
    lips = any(part.name == "l2s" for part in tasks)
    return [*SHARED, *([BASE] if needs_base else []), *tasks, *([LIP_ENCODER] if lips else [])]


def _is_lora(part: PublishedPart, wanted: Wanted) -> bool:
    """Return whether a task comes as LoRA and adapter, two files."""
    return len(wanted.given.get(part.name, part.files)) > 1


def _may_be_absent(part: PublishedPart, wanted: Wanted, absent: Sequence[Path], found: Located) -> bool:
    """Return whether a part can be left out: nobody asked for it, and none of its files is there."""
    asked = part in SHARED or part.name in wanted.names or part.name in wanted.given
    return not asked and not (part is BASE and "base" in wanted.names) and len(absent) == len(found.files)


def _folder_roots(wanted: Wanted) -> dict[Repository, list[Path]]:
    """Return where in a folder the files of each repository may lie."""
    if wanted.source is None:
        return {}
    folder = Path(wanted.source)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with the published files, or 'hub'")
    # Downloads of one repository each, or of several into one folder as the released scripts do.
    roots = {repo: [folder / repo.name.split("/")[-1], folder / repo.name, folder] for repo in REPOSITORIES}
    roots[W2V_BERT].remove(folder)
    return {**roots, AMPHION: [folder]}


def _hub_roots(wanted: Wanted, parts: Sequence[PublishedPart]) -> dict[Repository, list[Path]]:
    """Download what the parts need of each repository, and return where it lies."""
    roots = {}
    for repository in REPOSITORIES:
        own = [part for part in parts if part.repository == repository and part.name not in wanted.given]
        files = [file.path for part in own for file in part.files] + [ENCODER_CONFIG] * (repository == W2V_BERT)
        files += [str(Path(LIP_ENCODER.files[0].path).with_suffix(".json"))] * (LIP_ENCODER in own)
        if own:
            roots[repository] = [snapshot(repository.name, files, wanted.revisions.get(repository.name))]
    return roots


def _files(part: PublishedPart, wanted: Wanted, roots: Sequence[Path]) -> Located:
    """Return a part's files, whether they are there or not."""
    if part.name in wanted.given:
        return Located(part, tuple(_in_folder(part, path) for path in wanted.given[part.name]))
    commit = roots[0].name if roots and wanted.source == HUB else None
    choices = (part.files, (part.whole,)) if part.whole else (part.files,)
    for files in choices:
        for root in roots:
            if any((root / file.path).is_file() for file in files):
                return Located(part, tuple(root / file.path for file in files), commit)
    return Located(part, tuple((roots[-1] if roots else Path()) / file.path for file in part.files), commit)


def _in_folder(part: PublishedPart, path: Path) -> Path:
    """Return the file that is meant by a folder such as w2v-BERT's."""
    return path / part.files[0].path if path.is_dir() else path
