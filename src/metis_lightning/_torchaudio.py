"""Lets torchaudio's CUDA-linked wheel import on a CPU-only torch, and with it peft, transformers and speechbrain.

The wheel's extension needs `libc10_cuda.so`. Told that the extension is absent, the parts in pure Python work.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

_NAME = "torchaudio._extension"
_CUDA_LIBRARY = "libc10_cuda.so"


def stand_in_for_missing_extension() -> bool:
    """Register a stand-in for torchaudio's extension if the real one cannot load; return whether it was needed.

    Imports neither torch nor torchaudio, and leaves a torchaudio alone that is absent, already imported, or loadable.
    """
    if "torchaudio" in sys.modules or _NAME in sys.modules:
        return False
    audio, torch = _package_folder("torchaudio"), _package_folder("torch")
    if audio is None or torch is None or (torch / "lib" / _CUDA_LIBRARY).exists():
        return False
    # The names of needed libraries stand as plain text in a shared object; the file is small.
    if not any(_CUDA_LIBRARY.encode() in path.read_bytes() for path in (audio / "lib").glob("_torchaudio*.so")):
        return False
    # As `torchaudio._extension` is in a build without the extension.
    module = ModuleType(_NAME, "Stand-in: torchaudio was imported without its compiled extension.")
    module.__spec__ = ModuleSpec(_NAME, None)
    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        _load_lib=lambda lib: False,
        fail_if_no_align=_fails_without_extension,
    )
    sys.modules[_NAME] = module
    return True


def _package_folder(name: str) -> Path | None:
    # Found without importing it.
    spec = importlib.util.find_spec(name)
    folders = None if spec is None else spec.submodule_search_locations
    return Path(folders[0]) if folders else None


def _fails_without_extension(function: Callable) -> Callable:
    def fail(*args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(f"{function.__name__} needs torchaudio's compiled extension, which does not fit this torch")

    return fail
