"""The app by its client's API, and in a real browser (extra `demo`; for the browser Chromium and `browser` too)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from every_task import LIP_DIM, make_every_task_bundle, write_voice
from metis_lightning.cli import main as cli
from metis_lightning.errors import UserError
from metis_lightning.generate.app import TABS, Studio, launch
from metis_lightning.generate.options import AppOptions

gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install -e '.[demo]'")
client_of = pytest.importorskip("gradio_client")

pytestmark = pytest.mark.timeout(600)

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def options(*models: str) -> AppOptions:
    return AppOptions(model=models, device="cpu")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_voice(folder / "mix.wav", 1.5, rate=44_100, channels=2)
    write_voice(folder / "me.wav", 1.0, seed=1)
    write_voice(folder / "short.wav", 0.05)
    (folder / "text.wav").write_text("no sound")
    np.save(folder / "lips.npy", np.random.default_rng(0).standard_normal((25, LIP_DIM)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[Callable[..., str]]:
    """Launch the app for some weights; return its address."""
    every = make_every_task_bundle(tiny_bundle, tmp_path_factory.mktemp("app") / "bundle")
    apps: list[Any] = []
    folder = tmp_path_factory.mktemp("uploads")

    def start(*models: str) -> str:
        studio = Studio(options(*(models or (str(every),))))
        apps.append(launch(studio, str(folder), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True))
        return str(apps[-1].local_url)

    yield start
    for app in apps:
        app.close()


@pytest.fixture(scope="module")
def address(launched: Callable[..., str]) -> str:
    return launched()


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return client_of.Client(address, verbose=False)


# Seed, steps, guidance.
FAST = (3, 2, 0.0)


def test_every_task_answers_by_the_api(client: Any, sounds: Path) -> None:
    mix, me, lips = (client_of.handle_file(str(sounds / name)) for name in ("mix.wav", "me.wav", "lips.npy"))
    calls = {
        "tts": (me, "I said that.", "Say this.", "en"),
        "vc": (mix, me),
        "tse": (mix, me),
        "se": (mix,),
        "l2s": (None, lips, me),
    }
    assert list(calls) == list(TABS)
    for task, inputs in calls.items():
        found = client.predict(*inputs, *FAST, api_name=f"/{task}")
        samples, rate = soundfile.read(found)
        assert rate == 24_000
        seconds = {"tts": 0.76, "l2s": 1.0}.get(task, 1.5)
        assert len(samples) == pytest.approx(seconds * rate, abs=480), task
        assert np.abs(samples).max() > 0


def test_the_seed_decides(client: Any, sounds: Path) -> None:
    mix = client_of.handle_file(str(sounds / "mix.wav"))
    once, again, other = (soundfile.read(client.predict(mix, seed, 2, 0.0, api_name="/se"))[0] for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        ("se", [None], "“The recording” is missing"),
        ("vc", ["mix.wav", "short.wav"], "the prompt short.wav lasts 0.05 s; give at least 0.1 s"),
        ("se", ["text.wav"], "text.wav: not a readable audio file"),
    ],
)
def test_a_mistake_is_one_line_in_the_words_of_the_form(
    client: Any, sounds: Path, task: str, files: list[str | None], message: str
) -> None:
    inputs = [None if name is None else client_of.handle_file(str(sounds / name)) for name in files]
    with pytest.raises(client_of.exceptions.AppError) as error:
        client.predict(*inputs, *FAST, api_name=f"/{task}")
    said = str(error.value)
    assert message in said and "\n" not in said
    assert "--" not in said and "/" not in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((3, "many", 0.0), "Steps: give a number from 1 to 100"),
        ((3, 10**9, 0.0), "Steps: give a number from 1 to 100"),
        ((3, 2, 1e300), "Guidance: give a number from 0 to 5"),
        ((-5, 2, 0.0), "Seed: give a number from 0 to 2147483647"),
        ((3, None, 0.0), "Steps: give a number from 1 to 100"),
    ],
)
def test_a_setting_that_is_none_is_told(client: Any, sounds: Path, settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(client_of.exceptions.AppError, match=message):
        client.predict(client_of.handle_file(str(sounds / "mix.wav")), *settings, api_name="/se")


def test_a_bug_is_told_without_its_insides(
    client: Any, sounds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Studio, "speak", broken)
    with pytest.raises(client_of.exceptions.AppError, match="went wrong on the server") as error:
        client.predict(client_of.handle_file(str(sounds / "mix.wav")), *FAST, api_name="/se")
    assert "secret" not in str(error.value)


def test_a_text_without_end_is_refused(client: Any, sounds: Path) -> None:
    me = client_of.handle_file(str(sounds / "me.wav"))
    with pytest.raises(client_of.exceptions.AppError, match="the longest is 60 s"):
        client.predict(me, "I said that.", "word " * 200_000, "en", *FAST, api_name="/tts")


def test_uploads_are_bounded_each_and_together(
    launched: Callable[..., str], monkeypatch: pytest.MonkeyPatch, sounds: Path
) -> None:
    import httpx

    monkeypatch.setattr("metis_lightning.generate.app.FILE_BYTES", 1_000_000)
    there = sum(path.stat().st_size for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file())
    monkeypatch.setattr("metis_lightning.generate.app.ALL_BYTES", there + 3_000_000)
    address = launched("nano")

    def upload(size: int) -> int:
        return httpx.post(f"{address}gradio_api/upload", files={"files": ("a.wav", os.urandom(size))}).status_code

    assert upload(1_100_000) == 413
    assert [upload(900_000) for _ in range(4)] == [200, 200, 200, 413]
    # What does not say how large it is gets no room.
    body = iter([b"x" * 10])
    assert httpx.post(f"{address}gradio_api/upload", content=body).status_code == 413


def test_a_text_in_another_script(client: Any, sounds: Path) -> None:
    me = client_of.handle_file(str(sounds / "me.wav"))
    with pytest.raises(client_of.exceptions.AppError, match="Thai"):
        client.predict(me, "I said that.", "สวัสดี", "en", *FAST, api_name="/tts")


def test_the_page_opens_on_a_task_that_works_and_greys_out_the_others(launched: Callable[..., str]) -> None:
    found = client_of.Client(launched("nano"), verbose=False)
    assert {name for name in found.view_api(return_format="dict")["named_endpoints"]} == {"/tts", "/vc", "/tse", "/se"}
    by_type: dict[str, list[dict[str, Any]]] = {}
    for component in found.config["components"]:
        by_type.setdefault(component["type"], []).append(component["props"])
    assert [tabs["selected"] for tabs in by_type["tabs"]] == ["tts"]
    assert {tab["id"]: tab["interactive"] for tab in by_type["tabitem"]} == {task: task != "l2s" for task in TABS}
    texts = [text["value"] for text in by_type["markdown"]]
    assert sum("do not have: Lip to speech." in text for text in texts) == 1


def test_weights_for_nothing_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="--model paper: no weights for any of the tasks tts, vc, tse, se, l2s"):
        Studio(options("paper"))


def test_wrong_weights_end_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["app", "--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("metis-lightning: error: bundle 'nowhere': no such folder")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["app"]) == 2
    assert "the app needs the extra 'demo': pip install 'metis-lightning[demo]'" in capsys.readouterr().err


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install -e '.[browser]'"
    )
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1400,1200"):
        chosen.add_argument(argument)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=chosen, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_page_load_timeout(180)
    yield driver
    driver.quit()


def test_a_recording_becomes_a_player(browser: Any, address: str, sounds: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(browser, 120)
    browser.get(address)
    waiting.until(lambda page: len(page.find_elements(By.CSS_SELECTOR, "button[role=tab]")) >= len(TABS))
    tabs = {tab.text: tab for tab in browser.find_elements(By.CSS_SELECTOR, "button[role=tab]") if tab.text}
    assert set(tabs) == {tab.title for tab in TABS.values()}
    tabs[TABS["se"].title].click()

    def shown(selector: str) -> Any:
        return next((found for found in browser.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()), None)

    waiting.until(lambda _: shown("#se-generate"))
    # Without a source the mistake is shown.
    shown("#se-generate").click()
    waiting.until(lambda page: "“The recording” is missing" in page.find_element(By.TAG_NAME, "body").text)
    panel = next(p for p in browser.find_elements(By.CSS_SELECTOR, "[role=tabpanel]") if p.is_displayed())
    panel.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(sounds / "mix.wav"))
    waiting.until(lambda _: "mix.wav" in panel.get_attribute("innerHTML"))
    shown("#se-generate").click()
    waiting.until(lambda page: page.find_elements(By.CSS_SELECTOR, "#se-result [data-testid=waveform-Result]"))
    waiting.until(lambda page: "0:02" in page.find_element(By.ID, "se-result").text)
    link = browser.find_element(By.CSS_SELECTOR, "#se-result a[download]").get_attribute("href")
    size = browser.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then((r) => r.arrayBuffer()).then((b) => done(b.byteLength))",
        link,
    )
    assert size == 44 + 1.5 * 24_000 * 2
