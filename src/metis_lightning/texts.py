"""One cleaning of texts at the door of every reader, so that what reads the same counts the same."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from metis_lightning.errors import UserError

RULES = "1: NFC; U+FEFF removed; white space as one blank; typographic apostrophes as U+0027 before a normaliser"
"""What is done to texts, with a version, for fingerprints."""

# Signs that stand for an apostrophe where typists, fonts and converters put them; the first also closes a quotation.
_INNER = re.compile(r"(?<=\w)[’‘‛ʼʹ′´`＇](?=\w)")
_ALWAYS = str.maketrans({"ʼ": "'", "＇": "'"})


def clean_text(text: str) -> str:
    r"""Return a text as NFC, without byte-order marks, and with one blank for any white space and line ends.

    >>> clean_text("\ufeffcafe\u0301\r\n\u2028noir ")
    'café noir'
    """
    if text.isascii():
        return " ".join(text.split())
    return " ".join(unicodedata.normalize("NFC", text.replace("\ufeff", "")).split())


def unify_apostrophes(text: str) -> str:
    """Return a text with U+0027 for every apostrophe; a sign that closes a quotation, which was opened, is none.

    >>> unify_apostrophes("won’t, the drivers’ ‘isn’t’")
    "won't, the drivers' ‘isn't’"
    """
    signs, opened = [], 0
    for sign in _INNER.sub("'", text).translate(_ALWAYS):
        opened += sign == "‘"
        if sign == "’":
            opened, sign = (opened - 1, sign) if opened else (0, "'")
        signs.append(sign)
    return "".join(signs)


def read_lines(path: Path) -> list[str]:
    r"""Return a file's lines, which end at `\n` or `\r\n` alone, without byte-order mark. A `UserError` if no UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{error.reason} at byte {error.start}"
        raise UserError(f"{path}: not UTF-8 ({place}); save or download it anew") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def posix_path(path: str) -> str:
    """Return a path that another system wrote with the separators of this one."""
    return path.replace("\\", "/")


def on_disk(path: Path) -> Path:
    """Return a path that a list names as the disk has it: as it is, with other separators, or letters (de)composed."""
    written = [str(path), posix_path(str(path))]
    forms = (unicodedata.normalize(form, name) for name in written for form in ("NFC", "NFD"))
    for name in (*written, *forms):
        # A name that is too long, or has a zero byte, is no file's.
        with suppress(OSError, ValueError):
            if Path(name).exists():
                return Path(name)
    return path
