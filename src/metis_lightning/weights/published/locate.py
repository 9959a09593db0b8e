"""The published files of the parts that are to be imported: given one by one, in a folder, or on the model hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.weights.bundle import snapshot
from metis_lightning.weights.published import layout
from metis_lightning.weights.published.layout import PublishedPart, Repository

# As a source: the repositories themselves.
HUB = "hub"
# What can be chosen; what all tasks share is always imported.
NAMES = ("base", *(part.name for part in layout.FINE_TUNED))


@dataclass(frozen=True)
class ImportRequest:
    """The parts to import, and their files."""

    source: str | None  # a folder, `HUB`, or None if every file is given
    names: tuple[str, ...] = ()  # of `NAMES`; empty for all whose files are there
    # By part, before those of the source; a task is one file, or LoRA and adapter.
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)  # by repository; the newest of the others

    def __post_init__(self) -> None:
        """Check the names; a `UserError` if there is no such part, or it comes as another number of files."""
        if unknown := [name for name in self.names if name not in NAMES]:
            raise UserError(f"--tasks {' '.join(unknown)}: choose from {', '.join(NAMES)}")
        if unknown := [name for name in self.files if name not in layout.PARTS]:
            raise UserError(f"--file {' '.join(unknown)}: the parts are {', '.join(sorted(layout.PARTS))}")
        for part in layout.SHARED:
            if len(self.files.get(part.name, part.files)) != len(part.files):
                names = ", ".join(file.path for file in part.files)
                raise UserError(f"--file {part.name}: give as many files as are published, {names}, in this order")


@dataclass(frozen=True)
class LocatedPart:
    """A part and its files, in the layout's order; `commit` of the repository if they come from the hub."""

    part: PublishedPart
    files: tuple[Path, ...]
    commit: str | None = None


def locate(request: ImportRequest) -> list[LocatedPart]:
    """Return the files of every part that is wanted and of those that it needs, the base before its LoRAs.

    A `UserError` names every file that is missing, or the folder or repository that is not there.
    """
    tasks = [part for part in layout.FINE_TUNED if not request.names or part.name in request.names]
    has_lora = any(len(request.files.get(part.name, part.files)) > 1 for part in tasks)
    base = [layout.BASE] if not request.names or "base" in request.names or has_lora else []
    lips = [layout.LIP_ENCODER] if any(part.name == "l2s" for part in tasks) else []
    parts = [*layout.SHARED, *base, *tasks, *lips]
    roots = _hub_roots(request, parts) if request.source == HUB else _folder_roots(request.source)
    named = {*request.names, *request.files, *(part.name for part in layout.SHARED)}
    located, missing = [], []
    for part in parts:
        each = _locate_part(part, request, roots.get(part.repository, []))
        absent = [str(path) for path in each.files if not path.is_file()]
        is_named = part.name in named or (part is layout.BASE and "base" in named)
        # Nobody named it and none of its files is there: it is left out.
        if is_named or len(absent) < len(each.files):
            missing += absent
            located.append(each)
    has_lora = any(len(each.files) > 1 and each.part.task for each in located)
    if has_lora and all(each.part is not layout.BASE for each in located):
        missing.append(layout.BASE.files[0].path)
    if missing:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise UserError(
            f"{len(missing)} files are missing: {some}; name a file that lies elsewhere with --file "
            "PART=PATH, or what is to be imported with --tasks"
        )
    return located


def _folder_roots(source: str | None) -> dict[Repository, list[Path]]:
    if source is None:
        return {}
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with the published files, or 'hub'")
    # Downloads of one repository each, or of several into one folder as the released scripts do.
    roots = {repo: [folder / repo.name.split("/")[-1], folder / repo.name, folder] for repo in layout.REPOSITORIES}
    roots[layout.W2V_BERT].remove(folder)
    return {**roots, layout.AMPHION: [folder]}


def _hub_roots(request: ImportRequest, parts: Sequence[PublishedPart]) -> dict[Repository, list[Path]]:
    roots = {}
    for repository in layout.REPOSITORIES:
        own = [part for part in parts if part.repository == repository and part.name not in request.files]
        files = [file.path for part in own for file in part.files]
        files += [str(Path(part.files[0].path).with_name(part.config_file)) for part in own if part.config_file]
        if own:
            roots[repository] = [snapshot(repository.name, files, request.revisions.get(repository.name))]
    return roots


def _locate_part(part: PublishedPart, request: ImportRequest, roots: Sequence[Path]) -> LocatedPart:
    if part.name in request.files:
        given = request.files[part.name]
        # A folder such as w2v-BERT's stands for the file in it.
        return LocatedPart(part, tuple(path / part.files[0].path if path.is_dir() else path for path in given))
    # A download's folder is called by its commit.
    commit = roots[0].name if roots and request.source == HUB else None
    # A LoRA goes before the file that holds all of a task's weights.
    for files in (part.files, (part.whole,)) if part.whole else (part.files,):
        for root in roots:
            if any((root / file.path).is_file() for file in files):
                return LocatedPart(part, tuple(root / file.path for file in files), commit)
    root = roots[-1] if roots else Path()
    return LocatedPart(part, tuple(root / file.path for file in part.files), commit)
