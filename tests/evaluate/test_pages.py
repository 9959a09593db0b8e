"""Both pages in Chromium, steered over a pipe as `evaluation/screenshots.py` does: no driver, no package."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy.stats import binomtest

from documented import REPOSITORY
from metis_lightning.evaluate.compare.main import run_compare
from metis_lightning.evaluate.options import CompareOptions
from metis_lightning.evaluate.tables.main import write_tables
from small_results import rows_of, write_run, write_wavs

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def screenshots() -> ModuleType:
    spec = importlib.util.spec_from_file_location("screenshots", REPOSITORY / "evaluation/screenshots.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["screenshots"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    rows = [row for index, system in enumerate(("input", "target", "nano")) for row in rows_of(system, 0.1 * index)[:6]]
    for row in rows:
        row["facts"] = {"snr_db": float(int(row["id"][-2:]) % 2), "seconds": 1.0}
    run = write_run(folder / "results", "demo", rows)
    write_wavs(run, rows, seconds=2)
    (run / "wavs/nano/utt-04.wav").unlink()
    options = CompareOptions(task="tse", systems=None, results=run, out=folder / "compare", limit=50, sort=None)
    run_compare(options)
    write_tables(folder / "results", folder / "tables", REPOSITORY / "evaluation/benchmarks")
    return {"compare": folder / "compare/index.html", "tables": folder / "tables/tables.html"}


@pytest.fixture(scope="module")
def steered(screenshots: ModuleType) -> Iterator[Any]:
    with screenshots.browser(CHROMIUM) as found:
        yield found


def test_nothing_is_wrong_with_the_pages(
    screenshots: ModuleType, steered: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    faults = {}
    for name, page in pages.items():
        for width in screenshots.WIDTHS:
            for theme in screenshots.THEMES:
                picture = tmp_path / f"{name}-{width}-{theme}.png"
                faults[picture.name] = screenshots.look(steered, page, width, theme, picture)
                assert picture.stat().st_size > 10_000
    assert {name: found for name, found in faults.items() if found} == {}


def test_votes_are_read_back_with_exact_intervals(
    screenshots: ModuleType, steered: Any, pages: dict[str, Path]
) -> None:
    tab = screenshots.Tab(steered, pages["compare"], 1280, "light")
    for won, count in ((0, 9), (7, 10), (31, 40), (12, 12)):
        low, high = tab.evaluate(f"interval({won}, {count})")
        exact = binomtest(won, count).proportion_ci(0.95, "exact")
        assert (low, high) == (pytest.approx(exact.low, abs=1e-6), pytest.approx(exact.high, abs=1e-6))
    votes = [
        {"testSet": "t", "id": f"u{i}", "a": "nano", "b": "input", "preferred": "nano" if i < 7 else "input"}
        for i in range(10)
    ]
    others = [{**vote, "preferred": "nano"} for vote in votes[:9]] + [{**votes[9], "preferred": None}]
    files = f"[new File([{json.dumps(json.dumps(votes))}], 'a'), new File([{json.dumps(json.dumps(others))}], 'b')]"
    tab.evaluate(f"load({files})")
    cells = tab.evaluate("[...document.querySelectorAll('#verdicts td')].map((each) => each.textContent)")
    exact = binomtest(3, 19).proportion_ci(0.95, "exact")
    assert cells[:5] == ["input", "nano", "3", "16", "1"]
    assert cells[5] == f"16% [{100 * exact.low:.0f}%, {100 * exact.high:.0f}%]"
    assert float(cells[6]) == pytest.approx(binomtest(3, 19).pvalue, abs=5e-4)
    told = tab.evaluate("document.querySelector('#verdicts p').textContent")
    assert told == "2 files of votes; listeners agree in 70% of 10 pairs of judgements."
    tab.evaluate("load([new File(['no JSON'], 'c')])")
    assert "1 without votes" in tab.evaluate("document.querySelector('#verdicts p').textContent")
    tab.close()


def test_filters_plots_and_the_scale_of_time(screenshots: ModuleType, steered: Any, pages: dict[str, Path]) -> None:
    tab = screenshots.Tab(steered, pages["compare"], 1280, "dark")

    def count(selector: str) -> int:
        return tab.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length")

    def choose(name: str, value: str) -> None:
        tab.evaluate(
            f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}';"
            " s.dispatchEvent(new Event('change')); })()"
        )

    assert count(".utterance") == 6
    choose("snr", "1")
    assert count(".utterance") == 3
    choose("snr", "")
    choose("speaker", "anna")
    assert count(".utterance") == 2
    choose("speaker", "")
    assert count("#plots circle.dot") == 0
    tab.evaluate("document.getElementById('plots').open = true")
    tab.evaluate("new Promise((done) => setTimeout(done, 200))")
    # Five of six have word errors, of three systems, and two differences from the first.
    assert count("#plots circle.dot") == 5 * 3 + 5 * 2
    assert count("#plots line.interval") == 0, "three speakers have no interval"
    assert tab.evaluate("document.querySelector('.mel').style.width") == "100%"
    assert count(".mel .wave polygon") == 6 * 3 - 1
    assert tab.errors() == []
    tab.close()


def test_rows_without_results_are_hidden_until_asked_for(
    screenshots: ModuleType, steered: Any, pages: dict[str, Path]
) -> None:
    tab = screenshots.Tab(steered, pages["tables"], 380, "light")
    visible = "[...document.querySelectorAll('tr.unmeasured')].filter((each) => each.offsetHeight).length"
    assert tab.evaluate(visible) == 0
    tab.evaluate("document.getElementById('unmeasured').click()")
    assert tab.evaluate(visible) > 10
    first = "document.querySelector('#table_03 section h3').textContent"
    assert tab.evaluate(first).startswith("Ours on"), "ours stand first"
    # However far a table is scrolled, whose row it is stays in sight.
    tab.evaluate("document.querySelector('#table_03 .grid').scrollLeft = 400")
    left = "document.querySelector('#table_03 td.key').getBoundingClientRect().left"
    assert tab.evaluate(left) == pytest.approx(
        tab.evaluate("document.querySelector('#table_03 .grid').getBoundingClientRect().left"), abs=2
    )
    tab.close()
