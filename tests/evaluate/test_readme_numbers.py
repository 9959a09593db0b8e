"""The command that writes the README's numbers anew."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from documented import REPOSITORY
from metis_lightning.errors import UserError
from small_results import in_two_languages, rows_of, write_run


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_numbers", REPOSITORY / "evaluation/readme_numbers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_block_is_written_anew_and_the_rest_stays(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ("WER_tiny.en", "DNSMOS_OVRL", "STOI", "SIM_target_ge2e", "SIM_margin_ge2e", "PESQ")
    write_run(tmp_path, "run", [*rows_of("input", metrics=metrics), *rows_of("nano", 0.1, metrics=metrics)])
    monkeypatch.chdir(tmp_path)
    page = "Before.\n\n<!-- numbers of run -->\nold\n<!-- end of numbers -->\n\nAfter.\n"
    text = script.rewritten(page)
    assert text.startswith("Before.\n\n<!-- numbers of run -->\n\n| test set ")
    assert text.endswith("<!-- end of numbers -->\n\nAfter.\n")
    assert "old" not in text
    header, _, first, second = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    assert [cell.strip() for cell in header.split("|")[1:6]] == ["test set", "system", "n", "DNSMOS OVRL ↑", "STOI ↑"]
    assert "PESQ" not in header
    assert re.match(r"\| librimix +\| input +\| +14 \| +0\.74", first)
    assert "14.6 [4.3, 25.0; 7]" in second
    assert "- nano - input on librimix, SIM_margin_ge2e: +0.100 (95% over 7 speakers" in text
    assert script.rewritten(text) == text
    with pytest.raises(UserError, match="nowhere: no finished run; `make numbers` makes it"):
        script.rewritten(page.replace("run", "nowhere"))


def test_a_test_set_without_a_column_has_a_dash_there(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    english = rows_of("input", test_set="a-en", metrics=("WER_tiny.en", "DNSMOS_OVRL", "STOI"))
    mixed = rows_of("input", test_set="b-mixed", metrics=("WER_tiny.en", "DNSMOS_OVRL"))
    write_run(tmp_path, "run", [*english, *in_two_languages(mixed)])
    monkeypatch.chdir(tmp_path)
    table = re.findall(r"^\|.*\|$", script.numbers_of(Path("run")), re.MULTILINE)
    header, _, first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    assert header == ["test set", "system", "n", "DNSMOS OVRL ↑", "STOI ↑", "WER % (tiny.en) ↓", "WER % (base) ↓"]
    assert (first[0], first[-1], second[0], second[4]) == ("a-en", "–", "b-mixed", "–")
    # 19 edits in 130 words; 13 in 70 of the odd numbers; 6 in 60 of the even ones, of which the first has no text.
    assert first[5].startswith("14.6")
    assert second[5].startswith("18.6") and second[6].startswith("10.0")


def test_a_summary_stands_beside_the_paper(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = ("WER_tiny.en", "DNSMOS_OVRL", "STOI")
    write_run(tmp_path, "run", [*rows_of("input", metrics=metrics), *rows_of("nano", 0.1, metrics=metrics)])
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/benchmarks").symlink_to(REPOSITORY / "evaluation/benchmarks")
    monkeypatch.chdir(tmp_path)
    page = "<!-- summary of run beside table_03: Metis-TSE LoRA 32 -->\n<!-- end of numbers -->\n"
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in re.findall(r"^\|.*\|$", script.rewritten(page), re.MULTILINE)
    ]
    assert [line[:2] for line in lines[2:]] == [
        ["input", "librimix"],
        ["nano", "librimix"],
        ["paper: Metis-TSE LoRA 32", "LibriMix test"],
    ]
    assert lines[3][2].startswith("14.6 [") and lines[4][2:] == ["9.7", "3.35"]
    with pytest.raises(UserError, match="table_03 has no row 'Metis'"):
        script.rewritten(page.replace("Metis-TSE LoRA 32", "Metis"))


def test_the_pages_name_the_runs_that_make_numbers_makes(script: ModuleType) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for path in script.PAGES:
        text = (REPOSITORY / path).read_text()
        runs = re.findall(r"<!-- (?:numbers|summary) of (\S+) ", text)
        assert runs
        assert text.count("<!-- end of numbers -->") == len(runs)
        assert all(f"--out {run} " in makefile for run in runs)
