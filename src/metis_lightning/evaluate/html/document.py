"""What the HTML pages share: frame, styles in `page/`, media inside, and a policy that lets a page load nothing."""

from __future__ import annotations

import base64
import hashlib
import io
from html import escape
from importlib.resources import files

import numpy as np
import soundfile
from torch import Tensor

from metis_lightning.types import WAVE_RATE


def asset(name: str) -> str:
    """Return the text of a file in `page/`."""
    return (files("metis_lightning.evaluate.html") / "page" / name).read_text(encoding="utf-8")


def document(title: str, style: str, body: str, script: str = "") -> str:
    """Return a whole page in one file, which works from `file://`.

    Its content security policy allows this style, this script, and images and sound that are in the page itself. Markup
    that came in with somebody's transcript could neither run nor load anything, even if it were not escaped.

    Args:
        title: plain text.
        style: CSS.
        body: HTML whose texts are escaped.
        script: JavaScript; it runs when the body is there.
    """
    allowed = f"'sha256-{_hash(script)}'" if script else "'none'"
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src {allowed}; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
    scripts = f"<script>{script}</script>\n" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n{scripts}</body>\n</html>\n"
    )


def opus(wave: Tensor) -> bytes:
    """Return a wave (S,) at 24 kHz as Ogg Opus: about 5 kB a second."""
    file = io.BytesIO()
    soundfile.write(file, wave.clamp(-1, 1).numpy().astype(np.float32), WAVE_RATE, format="OGG", subtype="OPUS")
    return file.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Return content of a media type as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _hash(text: str) -> str:
    """Return the SHA-256 of a text in base64, as content security policies name sources."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
