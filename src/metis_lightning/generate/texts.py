"""Whether a text can be read: its language is known, and its letters are those that the language is written in."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from metis_lightning.errors import UserError

_LATIN = ("LATIN",)
_CHINESE = ("CJK", "IDEOGRAPHIC", "BOPOMOFO")
SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "en": _LATIN,
    "de": _LATIN,
    "fr": _LATIN,
    "it": _LATIN,
    "ru": ("CYRILLIC", *_LATIN),
    "zh": (*_CHINESE, *_LATIN),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH", *_CHINESE, *_LATIN),
    "ko": ("HANGUL", *_CHINESE, *_LATIN),
}
"""What letters' names in Unicode start with, by language (ISO 639-1); foreign words may stand in Latin letters."""

# Letters that belong to one script; modifiers, such as the Hawaiian okina, belong to any.
_SCRIPTED = ("Lu", "Ll", "Lt", "Lo")


def check_text(what: str, text: str, language: str, known: Sequence[str]) -> None:
    """Check that a text is one of its language.

    Args:
        what: how messages call the text.
        text: to be checked.
        language: that it is said to be in.
        known: the languages that the weights' front end reads.

    Raises:
        UserError: if the language is not known, a letter is of another script, or there is nothing to speak.
    """
    if language not in known:
        raise UserError(f"{what}: the language {language!r} is not one of these weights'; they read {', '.join(known)}")
    # Compatibility forms, such as full-width letters, are read as what they stand for.
    letters = [sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign)[0] in "LN"]
    if not letters:
        raise UserError(f"{what}: nothing can be spoken of {text[:40]!r}; give words")
    for sign in letters:
        script = unicodedata.name(sign, "UNKNOWN").split()[0]
        if unicodedata.category(sign) in _SCRIPTED and script not in SCRIPTS[language]:
            raise UserError(
                f"{what}: the letter {sign!r} ({script.capitalize()}) is not one that {language!r} is written in; name "
                f"the text's language, one of {', '.join(known)}, or write it in {SCRIPTS[language][0].capitalize()}"
            )
