"""Paraformer by funasr (Gao et al., 2022): the paper's recogniser of Chinese is `paraformer-zh`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.metrics.model_files import model_name, require, versions, weight_hashes
from metis_lightning.metrics.signal import METRIC_RATE, Wave, as_array


class Paraformer:
    """Chinese, in simplified characters without punctuation.

    funasr finds, downloads (from ModelScope) and opens the weights itself; take them only from a source that you trust.
    """

    languages: frozenset[str] | None = frozenset({"zh"})

    def __init__(self, source: str = "", device: str = "cpu", num_threads: int = 1) -> None:
        """Load a folder, or a name that funasr knows ("paraformer-zh" if empty). A `UserError` if that fails."""
        funasr, source = require("funasr", "zh"), source or "paraformer-zh"
        require("zhconv", "zh")
        self.name = model_name(source, "funasr")
        try:
            self._model = funasr.AutoModel(model=source, device=device, disable_update=True, disable_pbar=True)
        except Exception as error:
            # funasr raises whatever its download or its registry does: assertions, connection errors, key errors.
            reason = f"cannot be loaded ({type(error).__name__}: {error}): give the folder of its files"
            raise UserError(f"the funasr model {source} {reason}") from error
        # Where funasr put what it downloaded.
        folder = Path(getattr(self._model, "model_path", None) or source)
        packages = versions(("funasr", "zhconv"))
        self.identity: dict[str, Any] = {"name": self.name, "sha256": weight_hashes(folder), "packages": packages}

    def transcribe(self, wave: Wave, language: str = "zh") -> str:
        """Return the characters; see `Recognizer.transcribe`."""
        results = self._model.generate(input=as_array(wave), fs=METRIC_RATE, batch_size_s=300, disable_pbar=True)
        return require("zhconv", "zh").convert(results[0]["text"], "zh-cn") if results else ""
