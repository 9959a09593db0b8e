"""Whisper of any size by faster-whisper (CTranslate2). Not the same numbers as the original's, so not its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.metrics.model_files import model_name, weight_hashes
from metis_lightning.metrics.packages import require, versions
from metis_lightning.metrics.recognizers.base import COMPUTE_TYPE, GREEDY
from metis_lightning.metrics.signal import Wave, as_array


class FasterWhisper:
    """A CTranslate2 conversion of Whisper, greedy."""

    languages: frozenset[str] | None = None

    def __init__(self, source: str = "large-v3", device: str = "cpu", num_threads: int = 1) -> None:
        """Load a model.

        Args:
            source: a folder with a conversion, or a size such as "large-v3".
            device: "cpu" or "cuda".
            num_threads: CPU threads.

        Raises:
            UserError: faster-whisper or the model is missing.
        """
        package = require("faster_whisper", "offline")
        name = model_name(source, "Systran").removeprefix("faster-whisper-")
        self.name = f"faster-whisper-{name}"
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        try:
            folder = Path(source)
            if not folder.is_dir():
                folder = Path(package.download_model(source, local_files_only=offline))
            self._model = package.WhisperModel(
                str(folder), device=device, compute_type=COMPUTE_TYPE, cpu_threads=num_threads
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the faster-whisper model {source} cannot be loaded ({error}): give the folder of a conversion, or a "
                "size with HF_HUB_OFFLINE=0 to download it"
            ) from error
        self._hashes = weight_hashes(folder)
        if not self._model.model.is_multilingual:
            self.languages = frozenset({"en"})

    def transcribe(self, wave: Wave, language: str = "en") -> str:
        """Return the words heard; see `AsrBackend.transcribe`."""
        segments, _ = self._model.transcribe(as_array(wave), language=language, **GREEDY)
        return " ".join(segment.text.strip() for segment in segments)

    def fingerprint(self) -> dict[str, Any]:
        """Return hashes, decoding options and versions."""
        packages = versions(("faster-whisper", "ctranslate2"))
        decoding = {**GREEDY, "compute_type": COMPUTE_TYPE}
        return {"name": self.name, "sha256": self._hashes, "decoding": decoding, "packages": packages}
