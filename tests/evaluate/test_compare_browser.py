"""The page of `compare` in a real browser, from `file://`. It needs Chromium, its driver, and the extra `browser`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metis_lightning.evaluate.compare.main import run_compare
from metis_lightning.evaluate.options import CompareOptions
from small_results import rows_of, write_run, write_wavs

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[browser]'")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver"),
    pytest.mark.timeout(1200),
]

STRANGE = '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    rows = [row for index, system in enumerate(("target", "nano", "other")) for row in rows_of(system, 0.1 * index)[:5]]
    for row in rows:
        row["hypothesis"] = "the words off number" if row["id"] != "utt-02" else STRANGE
        row["text"] = row["text"] if row["id"] != "utt-02" else STRANGE
    run = write_run(folder / "results", "demo", rows)
    write_wavs(run, rows, seconds=2)
    (run / "wavs/nano/utt-04.wav").unlink()
    run_compare(
        CompareOptions(task="tse", systems=("target", "nano", "other"), results=run, out=folder, limit=50, sort=None)
    )
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--window-size=1400,1000",
        "--autoplay-policy=no-user-gesture-required",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get(page.as_uri())
    return browser


def ids(browser: Any) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('.utterance')].map((row) => row.dataset.id)")


def choose(browser: Any, select: str, value: str) -> None:
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
        select, value,
    )  # fmt: skip


def test_every_row_has_a_player_and_a_picture_for_each_system(opened: Any) -> None:
    shown = opened.execute_script(
        """return [...document.querySelectorAll('.utterance')].map((row) => [
             row.querySelectorAll('audio').length,
             [...row.querySelectorAll('.mel img')].filter((image) => image.complete && image.naturalWidth > 100).length,
             row.querySelectorAll('dl').length])"""
    )
    assert sorted(shown) == [[2, 2, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    assert "no audio file" in opened.find_element("css selector", "[data-id=utt-04]").text
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_transcript_runs_nothing(opened: Any) -> None:
    assert opened.title == "tse: target, nano, other"
    assert STRANGE in opened.find_element("css selector", "[data-id=utt-02] .about .text").text
    assert opened.execute_script("return document.querySelectorAll('img:not(.mel img), script').length") == 2
    refused = opened.execute_async_script(
        """const done = arguments[0];
           document.addEventListener('securitypolicyviolation', (event) => done(event.violatedDirective));
           const script = document.createElement('script');
           script.textContent = 'document.title = "owned"';
           document.body.append(script);"""
    )
    assert (refused, opened.title) == ("script-src-elem", "tse: target, nano, other")


def test_worst_come_first_and_other_orders_can_be_chosen(opened: Any) -> None:
    assert ids(opened) == ["utt-00", "utt-03", "utt-02", "utt-01", "utt-04"], "no value, then by word errors"
    choose(opened, "metric", "NISQA")
    assert ids(opened) == ["utt-00", "utt-01", "utt-02", "utt-03", "utt-04"], "low scores are bad"
    choose(opened, "order", "best")
    assert ids(opened)[0] == "utt-04"
    opened.execute_script(
        "const s = document.getElementById('search'); s.value = 'number 3'; s.dispatchEvent(new Event('change'))"
    )
    assert ids(opened) == ["utt-03"]


def test_sound_plays_and_the_other_system_goes_on_where_the_first_was(opened: Any) -> None:
    at = opened.execute_async_script(
        """const done = arguments[0];
           const row = document.querySelector('[data-id=utt-01]');
           const [first, second] = row.querySelectorAll('audio');
           const box = row.querySelector('.mel').getBoundingClientRect();
           first.addEventListener('playing', () => row.querySelectorAll('.play')[1].click(), { once: true });
           const report = () => done([first.paused, second.currentTime, second.duration]);
           second.addEventListener('playing', report, { once: true });
           const clientX = box.left + box.width / 2;
           row.querySelector('.mel').dispatchEvent(new MouseEvent('click', { clientX, bubbles: true }));"""
    )
    assert at[0] is True
    assert 0.9 < at[1] < 2.0
    assert at[2] == pytest.approx(2.0, abs=0.05)


def test_blind_mode_hides_who_is_who_until_the_end(opened: Any) -> None:
    choose(opened, "blind-a", "0")
    choose(opened, "blind-b", "1")
    opened.execute_script("document.getElementById('blind').click(); document.getElementById('start').click()")
    assert sorted(ids(opened)) == ["utt-00", "utt-01", "utt-02", "utt-03"], "only where both have sound"
    seen = opened.find_element("tag name", "body").text
    assert "nano" not in seen and "target" not in seen and "NISQA" not in seen
    assert opened.execute_script("return getComputedStyle(document.querySelector('.mel img')).visibility") == "hidden"
    sounds = opened.execute_script(
        """const { utterances } = JSON.parse(document.getElementById('data').textContent);
           return [...document.querySelectorAll('.utterance')].map((row) => {
             const utterance = utterances.find((one) => one.id === row.dataset.id);
             const system = (audio) => utterance.entries.findIndex((entry) => entry.audio === audio.src);
             return [...row.querySelectorAll('audio')].map(system);
           })"""
    )
    assert all(sorted(pair) == [0, 1] for pair in sounds)
    opened.execute_script(
        """const target = arguments[0];
           document.querySelectorAll('.utterance').forEach((row, index) =>
             row.querySelectorAll('.vote button')[index === 3 ? 2 : target[index].indexOf(0)].click());""",
        sounds,
    )
    assert "4 of 4 judged" in opened.find_element("tag name", "body").text
    opened.execute_script("document.getElementById('reveal').click()")
    verdict = opened.find_element("id", "verdict").text
    assert verdict == "Blind: target preferred 3 times, nano 0 times, no preference 1, sign test p = 0.250."
    assert len(opened.find_elements("class name", "preferred")) == 3


def test_dark_and_light(opened: Any) -> None:
    def page_colour() -> str:
        return str(opened.execute_script("return getComputedStyle(document.body).backgroundColor"))

    before = page_colour()
    opened.execute_script("document.getElementById('theme').click()")
    assert page_colour() != before
    opened.execute_script("document.getElementById('theme').click()")
    assert page_colour() == before


def test_the_heads_stay_in_sight(opened: Any) -> None:
    top = opened.execute_script("scrollTo(0, 5000); return document.querySelector('.top').getBoundingClientRect().top")
    assert top == 0
    if folder := os.environ.get("METIS_SCREENSHOTS"):
        opened.save_screenshot(str(Path(folder) / "compare.png"))
        (Path(folder) / "compare.json").write_text(json.dumps(ids(opened)))
