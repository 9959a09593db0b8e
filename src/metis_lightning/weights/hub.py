"""Repositories on the model hub: bundles in our layout, and the published files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from metis_lightning.errors import UserError

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")

# Data alone: nothing that could be imported or unpickled is fetched with a bundle.
BUNDLE_FILES = ("bundle.yaml", "*.safetensors", "LICENSES.md", "README.md")


def is_hub_name(name: str) -> bool:
    """Return whether a name is of the form `owner/name` or `owner/name@revision`.

    >>> is_hub_name("amphion/metis"), is_hub_name("amphion/metis@4f2c"), is_hub_name("runs/a/b"), is_hub_name("nano")
    (True, True, False, False)
    """
    return _NAME.fullmatch(name) is not None


def hub_bundle(name: str, index: str) -> Path:
    """Return the local folder of a bundle on the hub, downloaded if need be; what an interruption left is kept.

    Args:
        name: as `is_hub_name` takes it.
        index: file that makes a repository a bundle; without it nothing else is fetched.

    Raises:
        UserError: if there is no such repository, it is no bundle, or it cannot be reached.
    """
    repository, _, revision = name.partition("@")
    folder = snapshot(repository, (index,), revision or None)
    if not (folder / index).is_file():
        raise UserError(
            f"{repository} on the model hub has no {index}, so it is no bundle; if it holds the published files, run: "
            "python -m metis_lightning import hub --out my_bundle"
        )
    # The commit is the folder's name: both downloads are of one.
    return snapshot(repository, BUNDLE_FILES, folder.name)


def snapshot(repository: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Return the local folder with files of a repository, of one commit, which is the folder's name.

    Args:
        repository: `owner/name`.
        files: names, or patterns of them; those that the repository does not have are left out.
        revision: commit, tag or branch; None for the newest.

    Raises:
        UserError: if there is no such repository or revision, or it cannot be reached.
    """
    # The client that huggingface_hub brings; its errors are not wrapped.
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    what = f"{repository}, which is no folder here, on the model hub"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except GatedRepoError as error:
        advice = "its owner asks for a log-in; accept the terms there, then run: hf auth login"
        raise UserError(f"{what}: {advice}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{what}: no such repository; give the folder of a bundle, or 'owner/name'") from error
    except LocalEntryNotFoundError as error:
        advice = "is HF_HUB_OFFLINE=1 set? (HF_HUB_OFFLINE=0 lets commands download)"
        raise UserError(f"{what}: not downloaded yet, and the hub is not to be reached; {advice}") from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what}: {reason}; run the command again, a download goes on where it stopped") from error
