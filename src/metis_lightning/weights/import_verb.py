"""The verb `import`: published weights to a bundle."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.files import check_output
from metis_lightning.locks import locked_beside
from metis_lightning.weights.bundle import bundle_folder, read_index
from metis_lightning.weights.imported import DTYPES, Written, write_bundle
from metis_lightning.weights.inspected import inspect
from metis_lightning.weights.layout import TASKS
from metis_lightning.weights.located import Located, Wanted, locate


def run_import(options: argparse.Namespace) -> None:
    """Run the verb on the options of the command line.

    Raises:
        UserError: if files are missing or do not fit, naming all that is wrong; then nothing was written.
    """
    check_output(options.out, is_folder=True)
    # Not in the bundle, which is renamed when it is whole.
    with locked_beside(options.out):
        _import(options)


def _import(options: argparse.Namespace) -> None:
    wanted = Wanted(
        options.source,
        tuple(options.tasks or ()),
        {part: [Path(path) for path in paths] for part, paths in _pairs("--file", options.file).items()},
        {repository: commits[-1] for repository, commits in _pairs("--revision", options.revision).items()},
    )
    located = locate(wanted)
    found = {part.part.name for part in located}
    if absent := [part.name for part in TASKS if not wanted.names and part.name not in found]:
        print(f"not there, so left out: {', '.join(absent)}")
    for line in licence_lines(located):
        print(line)
    sizes = {name: read_index(bundle_folder(name))["parts"] for name in ("paper", options.sizes)}
    parts = inspect(located, {**sizes["paper"], **sizes[options.sizes]}, options.ignore)
    for number, written in enumerate(write_bundle(parts, options.out, DTYPES[options.dtype]), start=1):
        print(f"[{number}/{len(parts)}] {_line(written)}", flush=True)
        if left_out := written.entry["source"].get("left_out"):
            print(f"    left out: {len(left_out)} tensors, listed in bundle.yaml")
    print(f"{options.out}: a bundle for {_tasks(located)}")


def licence_lines(located: Sequence[Located]) -> list[str]:
    """Return a line for each licence of what is imported."""
    licences: Mapping[str, list[str]] = defaultdict(list)
    for found in located:
        repository = found.part.repository
        licences[f"{repository.licence} ({repository.licence_url})"].append(found.part.name)
    return [f"licence of {', '.join(names)}: {licence}" for licence, names in licences.items()]


def _line(written: Written) -> str:
    what = f"{written.name}: {written.entry['parameters'] / 1e6:.2f} M parameters, {written.entry['dtype']}"
    return f"{what}, was there" if written.kept else what


def _tasks(located: Sequence[Located]) -> str:
    return ", ".join(found.part.name for found in located if found.part.task is not None) or "fine-tuning"


def _pairs(option: str, values: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of `NAME=VALUE`, by name, in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    for value in values:
        name, sign, rest = value.partition("=")
        if not (name and sign and rest):
            raise UserError(f"{option} {value}: give NAME=VALUE")
        found[name].append(rest)
    return dict(found)
