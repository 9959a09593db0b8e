"""What the texts of LRS2, LRS3 and their preparations say."""

from __future__ import annotations

from pathlib import Path

from metis_lightning.data.scan import Fault
from metis_lightning.texts import clean_text


def read_words(path: Path, where: str) -> str | Fault:
    """Return the words of a text file, empty if there are none; a file that is not UTF-8 is a fault."""
    try:
        return words_of(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return Fault(where, "not UTF-8", f"{path.name}: {error}")


def words_of(text: str) -> str:
    r"""Return the words of a text's first line, after `Text:` if it starts so, without braces.

    >>> words_of("Text:  SO {LG} WHAT IS IT\nConf:  4\n")
    'SO LG WHAT IS IT'
    >>> words_of("SO WHAT")
    'SO WHAT'
    """
    words = text.removeprefix("\ufeff").split("\n")[0].removeprefix("Text:")
    return clean_text(words.replace("{", " ").replace("}", " "))
