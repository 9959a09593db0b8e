"""Which texts can be read."""

import pytest

from metis_lightning.errors import UserError
from metis_lightning.generate.inputs import SCRIPTS, check_text
from metis_lightning.tokens.phonemes import LANGUAGES


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Naïve café, 2nd floor — it's $5!"),
        ("de", "Größe über Maß"),
        ("fr", "où l’œuvre «ça»"),
        ("it", "perché"),
        ("ru", "Ёлка и WiFi"),
        ("zh", "你好，世界 2024 OK"),
        ("ja", "スーパーのラーメン、人々とABC"),
        ("ko", "안녕하세요 漢字 ok"),
        ("en", "ｆｕｌｌ ｗｉｄｔｈ"),
        ("en", "ʻokina"),
        ("en", "42"),
    ],
)
def test_texts_of_each_language_are_let_through(language: str, text: str) -> None:
    check_text("--text", text, language, LANGUAGES)


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("en", "สวัสดี", "the letter 'ส' \\(Thai\\)"),
        ("en", "say привет", "the letter 'п' \\(Cyrillic\\) is not one that 'en' is written in"),
        ("zh", "안녕", "Hangul"),
        ("ru", "ελληνικά", "Greek"),
        ("de", "שלום", "Hebrew"),
        ("en", " …?!", "nothing can be spoken"),
        ("en", "", "nothing can be spoken"),
        ("he", "שלום", "the language 'he' is not one of these weights'; they read en, zh"),
    ],
)
def test_other_texts_are_refused(language: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_text("--text", text, language, LANGUAGES)


def test_every_language_has_its_scripts() -> None:
    assert set(SCRIPTS) == set(LANGUAGES)
