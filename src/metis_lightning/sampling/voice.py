"""A voice: a prompt that was encoded once, to be kept in a file and used by many requests.

Shape letters: S samples at 24 kHz, P token frames, Q quantizers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.types import HOP

_FORMAT = "metis voice 1"
_TENSORS = {"wave": torch.float32, "ssl_tokens": torch.long, "acoustic_tokens": torch.long}


@dataclass(frozen=True)
class Voice:
    """A prompt with its tokens; what a request of it generates is what it would of the prompt itself.

    wave: (S,) float32 at 24 kHz, of whole token frames: a source is heard together with it.
    ssl_tokens, acoustic_tokens: (P,) and (P, Q); both empty until it is encoded.
    text, language: what the prompt says, and in which language (ISO 639-1); a text may be unknown.
    codecs: hash of what made the tokens; empty for a voice of this pipeline that was never in a file.
    """

    wave: Tensor
    ssl_tokens: Tensor
    acoustic_tokens: Tensor
    text: str = ""
    language: str = "en"
    codecs: str = ""

    def __len__(self) -> int:
        return len(self.wave)

    def to(self, device: torch.device) -> Voice:
        """Return this voice with its tensors on a device."""
        wave, ssl_tokens, acoustic_tokens = (getattr(self, name).to(device) for name in _TENSORS)
        return replace(self, wave=wave, ssl_tokens=ssl_tokens, acoustic_tokens=acoustic_tokens)

    def checked(self, codecs: str) -> Voice:
        """Return this voice. A `UserError` if its tokens are of other codecs than those of the hash."""
        if self.codecs != codecs:
            raise UserError("the voice was encoded by another bundle's codecs; encode its prompt with this one")
        return self

    def save(self, path: Path | str) -> None:
        """Write the voice to a safetensors file."""
        about = {"format": _FORMAT, "text": self.text, "language": self.language, "codecs": self.codecs}
        tensors = {name: getattr(self, name).cpu().contiguous() for name in _TENSORS}
        with atomic_path(Path(path)) as temporary:
            save_file(tensors, temporary, about)

    @classmethod
    def load(cls, path: Path | str) -> Voice:
        """Read a voice from a file, without running code. A `UserError` if it is not one."""
        try:
            with safe_open(path, "pt") as file:
                about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a voice ({error}); write one with --save-voice") from error
        kinds = {name: tensor.dtype for name, tensor in tensors.items()}
        if about.get("format") != _FORMAT or kinds != _TENSORS:
            raise UserError(f"{path}: tensors, but not a voice; write one with --save-voice")
        voice = cls(**tensors, **{name: about.get(name, "") for name in ("text", "language", "codecs")})
        is_whole = voice.wave.dim() == 1 and len(voice.wave) % HOP == 0 and bool(voice.wave.isfinite().all())
        frames = voice.ssl_tokens.shape
        if not is_whole or len(frames) != 1 or voice.acoustic_tokens.shape[:-1] != frames or not voice.codecs:
            raise UserError(f"{path}: a voice whose parts do not fit together; write it anew with --save-voice")
        return voice


def names_voice(path: Path | str) -> bool:
    """Return whether a path is that of a voice, and not of a recording."""
    return str(path).endswith(".safetensors")


Prompt: TypeAlias = Tensor | Voice
"""The wanted voice: (S,) at 24 kHz, or encoded already."""
