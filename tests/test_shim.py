"""torchaudio, peft and transformers import beside a CPU-only torch."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metis_lightning import _torchaudio

IMPORTS = """
import sys
import metis_lightning
assert "torch" not in sys.modules, "importing the package must not import torch"
import torchaudio, peft, transformers, torch
print(*torchaudio.functional.resample(torch.zeros(1, 24_000), 24_000, 16_000).shape)
"""


def test_torchaudio_peft_and_transformers_import() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "16000"]), done.stderr


@pytest.mark.parametrize(("given", "kept"), [({}, "256"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}, "32")])
def test_onednn_keeps_few_programs_unless_told_otherwise(given: dict[str, str], kept: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN_PRIMITIVE")}
    # Before torch is there to ask for it.
    code = (
        "import os, sys, metis_lightning; print('torch' in sys.modules, os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment | given)
    assert done.stdout.split() == ["False", kept], done.stderr


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the folders of torch and a CUDA-linked torchaudio, neither imported yet."""
    for name in ("torch", "torchaudio"):
        (tmp_path / name / "lib").mkdir(parents=True)
    (tmp_path / "torchaudio/lib/_torchaudio.abi3.so").write_bytes(b"\x7fELF\0libc10_cuda.so\0")
    monkeypatch.setattr(_torchaudio, "_package_folder", lambda name: tmp_path / name)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchaudio._extension", ModuleType("restored after the test"))
    monkeypatch.delitem(sys.modules, "torchaudio._extension")
    return tmp_path


def test_stands_in_where_torch_has_no_cuda(packages: Path) -> None:
    assert _torchaudio.stand_in_for_missing_extension()
    extension = sys.modules["torchaudio._extension"]
    assert extension._IS_TORCHAUDIO_EXT_AVAILABLE is False

    @extension.fail_if_no_align
    def forced_align() -> None: ...

    with pytest.raises(RuntimeError, match="forced_align needs torchaudio's compiled extension"):
        forced_align()


def test_leaves_a_cuda_torch_alone(packages: Path) -> None:
    (packages / "torch/lib/libc10_cuda.so").touch()
    assert not _torchaudio.stand_in_for_missing_extension()
    assert "torchaudio._extension" not in sys.modules


def test_leaves_a_cpu_torchaudio_alone(packages: Path) -> None:
    (packages / "torchaudio/lib/_torchaudio.abi3.so").write_bytes(b"\x7fELF\0libtorch_cpu.so\0")
    assert not _torchaudio.stand_in_for_missing_extension()


def test_leaves_an_imported_torchaudio_alone(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    assert not _torchaudio.stand_in_for_missing_extension()


def test_does_nothing_without_torchaudio(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torchaudio, "_package_folder", lambda name: None)
    assert not _torchaudio.stand_in_for_missing_extension()
