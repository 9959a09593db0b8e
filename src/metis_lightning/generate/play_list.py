"""Results as one HTML page: a player and a mel spectrogram for the source, the prompt and the result of each job."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.document import asset, data_uri, document, opus
from metis_lightning.evaluate.html.spectrogram import log_mel, picture, webp
from metis_lightning.files import atomic_path, printable
from metis_lightning.generate.jobs import Job
from metis_lightning.types import WAVE_RATE

MAX_BYTES = 64_000_000
"""Jobs that would make the page larger than this are left out, and the page says so."""

MAX_SECONDS = 30.0
"""Of longer files the page has the beginning."""

_STYLE = """
main { max-width: 1200px; margin: 24px auto; padding: 0 16px; }
section { border-top: 1px solid var(--rule); padding: 14px 0; }
.clips { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 14px; margin-top: 8px; }
figure { margin: 0; }
figure img { width: 100%; height: 120px; display: block; }
figure audio { width: 100%; height: 36px; }
"""


def write_play_list(path: Path, title: str, jobs: Sequence[Job], max_bytes: int = MAX_BYTES) -> None:
    """Write the page of the jobs whose results are there, in order; it works from `file://` and loads nothing."""
    sections: list[str] = []
    done = [job for job in jobs if job.out.is_file()]
    for job in done:
        section = _section(job)
        if sum(map(len, sections)) + len(section) > max_bytes:
            break
        sections.append(section)
    shown = "" if len(sections) == len(done) else f"<p>The first {len(sections)} of {len(done)}: the page is full.</p>"
    body = f"<main>\n<h1>{escape(title)}</h1>\n{shown}{''.join(sections)}</main>"
    with atomic_path(path) as temporary:
        temporary.write_text(printable(document(title, asset("base.css") + _STYLE, body)), encoding="utf-8")


def _section(job: Job) -> str:
    files = {"source": job.path("source"), "prompt": job.path("prompt"), "result": job.out}
    clips = "".join(_clip(name, path) for name, path in files.items() if path is not None)
    text = f'<p class="soft">{escape(job.text("text"))}</p>' if job.text("text") else ""
    return f'<section>\n<h3>{escape(job.id)}</h3>{text}\n<div class="clips">{clips}</div>\n</section>\n'


def _clip(name: str, path: Path) -> str:
    """Return a player with its picture, or why there is none."""
    try:
        wave = read_audio(path, WAVE_RATE, part=(0.0, MAX_SECONDS))
    except UserError as error:
        return f'<figure><figcaption class="bad">{name}: {escape(str(error))}</figcaption></figure>'
    mel = log_mel(wave)
    image = data_uri("image/webp", webp(picture(mel, float(mel.max()))))
    sound = data_uri("audio/ogg", opus(wave))
    return (
        f'<figure><figcaption>{name}</figcaption><img alt="mel spectrogram of the {name}" src="{image}">'
        f'<audio controls preload="metadata" src="{sound}"></audio></figure>\n'
    )
