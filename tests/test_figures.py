"""The source stays within its limits: size, files, functions, comments, annotations (`python tests/figures.py`)."""

from pathlib import Path

import pytest

import figures


def test_the_source_keeps_its_limits() -> None:
    assert figures.measure().exceeded() == []


def test_what_breaks_a_limit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "SOURCE", tmp_path)
    monkeypatch.setattr(figures, "COMMANDS", {tmp_path / "cli"})
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "main.py").write_text("def run(options: Namespace) -> None:\n    # Why.\n    print(options)\n")
    long = "".join(f"    x{number} = 0\n" for number in range(46))
    (tmp_path / "long.py").write_text(f'def long(x, y: Namespace) -> None:\n    """Say."""\n\n{long}' + "\n" * 260)

    measured = figures.measure(tmp_path)

    assert measured.lines == 3 + 49 + 260
    assert (measured.code, measured.comments) == (2 + 47, 1)
    assert measured.functions == {"cli/main.py:1 run": 2, "long.py:1 long": 47}
    assert measured.short_functions == 0.5
    assert measured.exceeded() == [
        "long.py has 309 lines; at most 300",
        "long.py:1 long has 47 code lines; at most 45",
        "50.0% of the functions have at most 3 lines; under 25%",
        "2.0 comments per 100 code lines; 3 to 7",
        "long.py:1 long is not annotated",
        "long.py:1 knows a Namespace",
    ]
