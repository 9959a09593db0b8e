"""Results as one HTML page: a player and a mel spectrogram for the source, the prompt and the result of each job."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from markupsafe import Markup

from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.document import MAX_PAGE_BYTES, log_mel, opus_uri, picture, render, webp_uri
from metis_lightning.files import atomic_path, printable
from metis_lightning.generate.jobs import Job
from metis_lightning.types import WAVE_RATE

# Of longer files the page has the beginning.
MAX_SECONDS = 30.0


def write_play_list(path: Path, title: str, jobs: Sequence[Job], max_bytes: int = MAX_PAGE_BYTES) -> None:
    """Write the page of the jobs whose results are there, in order; it works from `file://` and loads nothing."""
    sections: list[str] = []
    done = [job for job in jobs if job.out.is_file()]
    for job in done:
        section = _section(job)
        if sum(map(len, sections)) + len(section) > max_bytes:
            break
        sections.append(section)
    page = render("play_list", title, sections=Markup("".join(sections)), shown=len(sections), total=len(done))
    with atomic_path(path) as temporary:
        temporary.write_text(printable(page), encoding="utf-8")


def _section(job: Job) -> str:
    files = {"source": job.path("source"), "prompt": None if job.has_voice else job.path("prompt"), "result": job.out}
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
    image = webp_uri(picture(mel, float(mel.max())))
    return (
        f'<figure><figcaption>{name}</figcaption><img alt="mel spectrogram of the {name}" src="{image}">'
        f'<audio controls preload="metadata" src="{opus_uri(wave)}"></audio></figure>\n'
    )
