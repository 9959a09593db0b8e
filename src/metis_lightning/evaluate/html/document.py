"""Self-contained HTML pages: templates and styles in `page/`, media inside, and a policy that lets a page load nothing.

Templates escape whatever they print but the styles, scripts and data that are handed to `render` as such.
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
from torch import Tensor

from metis_lightning.types import WAVE_RATE


def asset(name: str) -> str:
    """Return the text of a file in `page/`."""
    return (files("metis_lightning.evaluate.html") / "page" / name).read_text(encoding="utf-8")


def render(template: str, title: str, style: str, script: str = "", **context: object) -> str:
    """Return a whole page in one file, which works from `file://`.

    Its content security policy allows this style, this script, and images and sound that are in the page itself. Markup
    that came in with somebody's transcript could neither run nor load anything, even if it were not escaped.

    Args:
        template: a file in `page/` that extends `document.html`.
        title: plain text.
        style: CSS.
        script: JavaScript; it runs when the body is there.
        context: further variables of the template.
    """
    allowed = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" if text else "'none'"
        for text in (style, script)
    ]
    policy = (
        f"default-src 'none'; style-src {allowed[0]}; script-src {allowed[1]}; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
    trusted = {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}
    return _environment().get_template(template).render(title=title, **trusted, **context)


def document(title: str, style: str, body: str) -> str:
    """Return a page without a script, whose `body` is HTML with escaped texts; see `render`."""
    return render("document.html", title, style, body=Markup(body))


def plain(text: str) -> str:
    r"""Return what may come from a stranger on one line, without characters that cannot be seen or written.

    >>> plain("a\n b\x00\u202e\ud800")
    'a b'
    """
    return " ".join("".join(each for each in text if each.isprintable() or each.isspace()).split())


def opus(wave: Tensor) -> bytes:
    """Return a wave (S,) at 24 kHz as Ogg Opus: about 5 kB a second."""
    file = io.BytesIO()
    soundfile.write(file, wave.clamp(-1, 1).numpy().astype(np.float32), WAVE_RATE, format="OGG", subtype="OPUS")
    return file.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Return content of a media type as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    """Return what reads the templates, whose filter `plain` is for texts of strangers."""
    environment = Environment(
        loader=PackageLoader("metis_lightning.evaluate.html", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    # Entities as in Python's `html`; its result is markup, which is not escaped again.
    environment.filters["plain"] = lambda text: Markup(html.escape(plain(text)))
    return environment
