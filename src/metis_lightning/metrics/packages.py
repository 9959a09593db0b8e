"""Optional packages: imported where they are used, with a message that says how to get them."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`, which the optional dependencies `extra` bring.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra) from error


def missing(package: str, extra: str) -> UserError:
    """Return the error that says which extra brings `package`."""
    return UserError(f"the package '{package}' is not installed: run  pip install 'metis-lightning[{extra}]'")


def verify(path: Path, sha256: str, requirement: str) -> None:
    """Check that a file which the package `requirement` carries is the one whose numbers we know.

    Raises:
        UserError: it is missing or another file.
    """
    if not path.is_file() or sha256_of(path) != sha256:
        raise UserError(f"{path}: missing, or not the file expected: install  {requirement}  again")


def versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the installed version of each distribution, None for one that is absent."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
