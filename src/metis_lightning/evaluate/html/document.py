"""Self-contained HTML pages: templates and styles in `page/`, sound and pictures inside, and nothing that a page loads.

Shape letters: S samples, M mel bands, F frames of 10 ms.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from functools import cache
from importlib.resources import files

import numpy as np
import soundfile
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from metis_lightning.tokens.mel import PowerMel
from metis_lightning.types import WAVE_RATE

# Utterances that would make a page with sound larger than this are left out, and the page says so.
MAX_PAGE_BYTES = 64_000_000

HOP_LENGTH = 240
# Decibels from the brightest to black.
RANGE = 80.0

_cached_mel = cache(PowerMel)


def render(name: str, title: str, **context: object) -> str:
    """Return a whole page in one file, which works from `file://`; `name` is of its template, CSS and JavaScript.

    Templates escape whatever they print but the style, the script and what is handed over as `Markup`. By the content
    security policy markup in a transcript could neither run nor load anything, even if it were not escaped.
    """
    folder = files("metis_lightning.evaluate.html") / "page"
    style = "".join((folder / f"{sheet}.css").read_text(encoding="utf-8") for sheet in ("base", name))
    script_file = folder / f"{name}.js"
    script = script_file.read_text(encoding="utf-8") if script_file.is_file() else ""
    # A hash names the one style and the one script that may be used.
    allowed = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" if text else "'none'"
        for text in (style, script)
    ]
    policy = (
        f"default-src 'none'; style-src {allowed[0]}; script-src {allowed[1]}; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
    loader = PackageLoader("metis_lightning.evaluate.html", "page")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    # Entities as in Python's `html`; its result is markup, which is not escaped again.
    environment.filters["plain"] = lambda text: Markup(html.escape(plain(text)))
    trusted = {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}
    return environment.get_template(f"{name}.html").render(title=title, **trusted, **context)


def plain(text: str) -> str:
    r"""Return text of any origin on one line, without characters that cannot be seen or written.

    >>> plain("a\n b\x00\u202e\ud800")
    'a b'
    """
    return " ".join("".join(each for each in text if each.isprintable() or each.isspace()).split())


def opus_uri(wave: Tensor) -> str:
    """Return a wave (S,) at 24 kHz as an address that holds it in Ogg Opus, about 7 kB a second."""
    file = io.BytesIO()
    soundfile.write(file, wave.clamp(-1, 1).numpy().astype(np.float32), WAVE_RATE, format="OGG", subtype="OPUS")
    return f"data:audio/ogg;base64,{base64.b64encode(file.getvalue()).decode()}"


def webp_uri(image: np.ndarray) -> str:
    """Return an image (height, width, 3) of bytes as an address that holds it in WebP."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def log_mel(wave: Tensor) -> np.ndarray:
    """Return the power in decibels of a waveform (S,) at 24 kHz in 80 mel bands: (M, F) float32."""
    power = _cached_mel(WAVE_RATE, n_fft=1024, hop_length=HOP_LENGTH, n_mels=80)(wave.float())
    return (10.0 * power.clamp_min(1e-10).log10()).T.numpy()


def picture(mel: np.ndarray, top: float) -> np.ndarray:
    """Return a spectrogram (M, F) as an image (M, F, 3) of bytes, low frequencies below; `top` dB is the brightest."""
    return coloured("magma", (mel - top + RANGE) / RANGE)


def coloured(colormap: str, shades: np.ndarray) -> np.ndarray:
    """Return shades (M, F) from 0 to 1 in the colours of a map of matplotlib's, upside down."""
    from matplotlib import colormaps

    return colormaps[colormap](np.clip(shades[::-1], 0, 1), bytes=True)[..., :3]
