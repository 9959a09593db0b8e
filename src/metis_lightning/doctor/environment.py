"""Looks at what a run needs of the machine: versions, sound files, a GPU, eSpeak, processors and memory."""

from __future__ import annotations

import io
import os
import platform
import shutil
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

import numpy as np
import soundfile
import torch
from packaging.requirements import Requirement

from metis_lightning.doctor.main import Finding
from metis_lightning.errors import UserError

PACKAGE = "metis-lightning"
FORMATS = ("WAV", "FLAC", "MP3", "OGG")


def environment_findings() -> Iterator[Finding]:
    """Yield what was found of the machine and of what is installed."""
    names = ("torch", "lightning", "torchaudio")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    yield Finding("versions", "ok", f"Python {platform.python_version()}, {versions}")
    yield from _packages()
    yield _sound_files()
    yield _gpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Finding("machine", "ok", f"{os.cpu_count()} processors, {memory:.1f} GB of memory")
    if find_spec("phonemizer") is not None:
        yield _espeak()


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what this package requires, extra by extra."""
    try:
        required = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield Finding("packages", "note", f"{PACKAGE} is not installed, only on the path", "pip install -e .")
        return
    lacking = defaultdict[str, list[str]](list)
    for requirement in required:
        extra = _extra_of(requirement)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            lacking[extra].append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            yield Finding("packages", "fault", f"{requirement.name} is {version}", f"pip install '{wanted}'")
    if lacking[""]:
        yield Finding("packages", "fault", f"not installed: {', '.join(lacking[''])}", f"pip install {PACKAGE}")
    extras = {extra for extra in map(_extra_of, required) if extra}
    whole = sorted(extras - lacking.keys())
    yield Finding("packages", "ok", f"extras that are whole: {', '.join(whole) or 'none'}")
    for extra in ("eval", "offline"):
        if lacking.get(extra):
            names = ", ".join(lacking[extra])
            cure = f"`evaluate` needs them: pip install '{PACKAGE}[eval,offline]'"
            yield Finding("packages", "note", f"of the extra {extra!r} these are not installed: {names}", cure)


def _extra_of(requirement: Requirement) -> str:
    """Return the extra that a requirement belongs to; empty if it is the package's own."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return ""
    return str(requirement.marker).rpartition("extra == ")[2].strip("'\"")


def _sound_files() -> Finding:
    """Write and read a tone in each format that corpora come in."""
    tone, broken = 0.1 * np.sin(np.arange(4800) / 10), []
    for name in FORMATS:
        try:
            soundfile.write(file := io.BytesIO(), tone, 24_000, format=name)
            file.seek(0)
            if abs(len(soundfile.read(file)[0]) - len(tone)) > 2400:
                broken.append(name)
        except (RuntimeError, OSError, ValueError):
            broken.append(name)
    if broken:
        cure = "pip install --force-reinstall soundfile (its wheels hold libsndfile)"
        return Finding("sound files", "fault", f"{soundfile.__libsndfile_version__} fails on {', '.join(broken)}", cure)
    return Finding("sound files", "ok", f"{', '.join(FORMATS).lower()} by {soundfile.__libsndfile_version__}")


def _gpu() -> Finding:
    if torch.cuda.is_available():
        sizes = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{each.name} with {each.total_memory / 1e9:.0f} GB" for each in sizes)
        return Finding("GPU", "ok", names)
    if shutil.which("nvidia-smi"):
        cure = "install the CUDA build of torch for this driver, see pytorch.org"
        return Finding("GPU", "note", f"there is a driver, but torch {torch.__version__} finds no GPU", cure)
    return Finding("GPU", "note", "none; everything runs on the processor")


def _espeak() -> Finding:
    from metis_lightning.tokens.phonemes import text_front_end

    try:
        count = len(text_front_end("espeak")(("one", "en")))
    except (UserError, RuntimeError, OSError) as error:
        return Finding("eSpeak", "fault", str(error), f"pip install --force-reinstall '{PACKAGE}[text]'")
    return Finding("eSpeak", "ok", f"reads English ({count} phones of 'one')")
