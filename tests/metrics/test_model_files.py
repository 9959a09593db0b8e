from pathlib import Path

import pytest

from metis_lightning.errors import UserError
from metis_lightning.metrics.model_files import require, verify, versions


def test_missing_package_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"'no_such_package'.*pip install 'metis-lightning\[eval\]'"):
        require("no_such_package", "eval")


def test_versions() -> None:
    assert versions(("jiwer", "no-such-package")) == {
        "jiwer": __import__("importlib.metadata").metadata.version("jiwer"),
        "no-such-package": None,
    }


def test_verify_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"")
    verify(file, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "package==1")
    with pytest.raises(UserError, match=r"a\.bin.*package==1"):
        verify(file, "0" * 64, "package==1")
