"""Nano's results: made by two commands, the second of which writes the same bytes of the same stored files."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageSequence

from documented import REPOSITORY
from metis_lightning.cli.command import CommandParser
from metis_lightning.cli.main import COMMANDS
from metis_lightning.cli.main import main as cli
from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.document import log_mel
from metis_lightning.evaluate.results.comparison import read_comparison
from metis_lightning.evaluate.results.rows import read_rows
from metis_lightning.evaluate.results.runs import Protocol
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.tokens.visual.eigenmouths import PIXELS
from metis_lightning.types import WAVE_RATE
from metis_lightning.weights.bundle import Part, write_part
from quick_pool import QuickPool
from small_results import OFFLINE, in_two_languages, rows_of, write_run

COMMITTED = REPOSITORY / "evaluation/nano"
SINGLE = ["tts", "vc", "tse", "se", "l2s"]


@pytest.fixture(scope="module")
def scripts() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The first command's module, and the second's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "evaluation"))
        yield importlib.import_module("nano_results"), importlib.import_module("nano_page")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def identity_of(run: Path) -> Mapping[str, Any]:
    return Protocol.read(run).identity("nano")


class Media(HTMLParser):
    """Counts the players and pictures of a page, and refuses what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        source = dict(attrs).get("src")
        if source is not None:
            self.kinds.append(source.split(";")[0])
        assert tag not in ("script", "link", "iframe")


@pytest.fixture(scope="module")
def stored(scripts: tuple[ModuleType, ModuleType], every_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a tiny bundle for every task, one item a test set, as the first command stores them."""

    def run(command: Sequence[str], check: bool) -> None:
        assert check and command[:4] == [sys.executable, "-m", "metis_lightning", "evaluate"]
        run_evaluate(CommandParser("evaluate", COMMANDS["evaluate"]).options(command[4:]), QuickPool)

    words = ["nano_results.py", "--bundle", str(every_task), "--limit", "1", "--out", "made", "--num-steps", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("nano"))
        patch.setattr(subprocess, "run", run)
        patch.setattr(sys, "argv", words)
        assert scripts[0].main() == 0
        return Path("made").resolve()


@pytest.fixture
def small(stored: Path, tmp_path: Path) -> Path:
    """A copy of these results."""
    return Path(shutil.copytree(stored, tmp_path / "made"))


def test_two_commands_make_rows_tables_and_a_page_for_every_task(
    scripts: tuple[ModuleType, ModuleType], small: Path, tmp_path: Path
) -> None:
    _, page = scripts
    rows = {name: read_rows(small / name) for name in [*SINGLE, "omni", "omni_text"]}
    for name in SINGLE:
        unseen = "test-unseen" if name == "tse" else f"test-unseen-{name}"
        assert {row.test_set for row in rows[name]} == {unseen, unseen.replace("unseen", "human")}
    # Every task has a part of its own, so that all of Omni's answers are another model's.
    assert len({row.test_set for row in rows["omni"]}) == 4
    assert {row.system for row in rows["tse"]} == {"input", "target", "resynthesis", "oracle", "nano"}
    assert identity_of(small / "omni_text")["settings"]["tse"]["text_guided"]
    # No waveform is stored but the clips of examples, at 24 kbit/s.
    assert not list(small.rglob("*.wav"))
    clips = sorted(small.rglob("*.opus"))
    assert {path.stem for path in clips} == {"input", "prompt", "nano", "target", "resynthesis", "oracle"}
    assert sum(path.stat().st_size for path in clips) < 4200 * sum(soundfile.info(path).duration for path in clips)

    before = files_of(small)
    page.write(small)
    media = Media()
    text = (small / "index.html").read_text()
    media.feed(text)
    assert media.kinds.count("data:audio/ogg") == media.kinds.count("data:image/webp") == len(clips)
    assert set(media.kinds) == {"data:audio/ogg", "data:image/webp"}
    assert re.findall(r'<section id="(\w+)">', text) == [*SINGLE, "omni", "omni_text"]
    for number, task in {1: "tts", 2: "vc", 3: "tse", 4: "se", 5: "l2s", 6: "omni", 8: "vc"}.items():
        table = (small / f"tables/table_{number:02}.md").read_text()
        assert re.search(rf"^\| nano +\| {task}\[\^\d+\] +\| +1 of 60 ", table, re.MULTILINE), number

    # In another folder, of the stored files alone, the same bytes.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(small, elsewhere, ignore=shutil.ignore_patterns("tables", "index.html"))
    assert files_of(elsewhere) == before
    page.write(elsewhere)
    assert files_of(elsewhere) == files_of(small)


def test_lip_to_speech_is_of_drawn_mouths_beside_a_model_that_sees_none(
    scripts: tuple[ModuleType, ModuleType], every_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="the mouths are videos")
    pytest.importorskip("pocketsphinx", reason="finds the phones whose mouths are drawn")
    results, page = scripts
    bundle = shutil.copytree(every_task, tmp_path / "bundle")
    dim = results.part_config(str(bundle), "l2s")["cond_dim"]
    # A component of each pixel in turn: any picture gives features.
    components = {"components": torch.eye(PIXELS).repeat(1, 2)[:, :dim]}
    write_part(bundle, "visual_encoder", Part({"kind": "eigenmouths", "dim": dim}, components), torch.float32)

    def run(command: Sequence[str], check: bool) -> None:
        if command[1] == str(results.DRAW):
            monkeypatch.setattr(sys, "argv", [*command[1:], "--limit", "4"])
            runpy.run_path(command[1], run_name="__main__")
        elif command[3] == "evaluate":
            run_evaluate(CommandParser("evaluate", COMMANDS["evaluate"]).options(command[4:]), QuickPool)
        else:
            assert cli(command[3:]) == 0

    planned = results.planned_runs
    monkeypatch.setattr(results, "planned_runs", lambda *given: [r for r in planned(*given) if r.task == "l2s"])
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    words = ["--bundle", str(bundle), "--blind", str(every_task), "--out", "made", "--num-steps", "1", "--limit", "1"]
    monkeypatch.setattr(sys, "argv", ["nano_results.py", *words])
    assert results.main() == 0
    rows = read_rows(tmp_path / "made/l2s")
    assert [(row.system, row.test_set) for row in rows] == [
        (system, "mouths-test") for system in ("target", "resynthesis", "oracle", "nano", "blind")
    ]
    page.write(tmp_path / "made")
    media = Media()
    media.feed((tmp_path / "made/index.html").read_text())
    # The mouth moves and is silent; all others are heard.
    assert (media.kinds.count("data:image/webp"), media.kinds.count("data:audio/ogg")) == (7, 6)
    mouth = Image.open(next((tmp_path / "made/clips/l2s").rglob("mouth.webp")))
    # A picture that equals the one before it is no frame of its own, but shown for longer.
    milliseconds = sum(frame.copy().info["duration"] for frame in ImageSequence.Iterator(mouth))
    assert mouth.size == (96, 96) and milliseconds / 1000 == pytest.approx(rows[0].n_samples / WAVE_RATE, abs=0.04)
    table = (tmp_path / "made/tables/table_05.md").read_text()
    assert re.search(r"^\| nano +\| l2s", table, re.MULTILINE) and re.search(r"^\| blind +\| l2s", table, re.MULTILINE)


def test_what_is_not_whole_is_refused(
    scripts: tuple[ModuleType, ModuleType], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, page = scripts
    clip = sorted((small / "clips/se").rglob("nano.webp"))[0]
    picture_of_it = clip.read_bytes()
    clip.unlink()
    with pytest.raises(UserError, match="nano: the clip is not there"):
        page.write(small)
    clip.write_bytes(picture_of_it)
    monkeypatch.setattr(page, "MAX_BYTES", 10_000)
    with pytest.raises(UserError, match="the page would have .* MB, more than 0.01"):
        page.write(small)
    monkeypatch.undo()
    protocol = small / "se/protocol.json"
    content = json.loads(protocol.read_text())
    content["systems"]["nano"]["bundle"] = "another"
    protocol.write_text(json.dumps(content))
    with pytest.raises(UserError, match="the runs are of different weights"):
        page.write(small)
    results.remove_other_weights(small, identity_of(small / "tse")["bundle"])
    assert not (small / "se").exists() and not (small / "clips/se").exists()
    assert (small / "tse").exists() and (small / "clips/tse").exists()
    assert "se" not in page.stored_runs(small)


def test_examples_are_at_the_quartiles_of_the_word_errors(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    _, page = scripts
    rows = rows_of("nano", test_set="test-unseen", metrics=OFFLINE)
    other = [{**row, "id": f"human-{row['id']}"} for row in rows_of("nano", test_set="test-human", metrics=OFFLINE)]
    # Another recogniser is met first, but most utterances go to that of English.
    comparison = read_comparison(write_run(tmp_path, "tse", [*in_two_languages(other), *rows]), "tse", None)
    chosen = page.examples(comparison)
    # Of 14, by word errors of 0 to 30% with one that has none and is the worst: the places 3, 6 and 10.
    errors = sorted((row["metrics"]["WER_tiny.en"] is None, row["metrics"]["WER_tiny.en"] or 0) for row in rows)
    wers = [utterance.entries["nano"].row.metrics["WER_tiny.en"] for utterance, _ in chosen]
    assert wers == [errors[place][1] for place in (3, 6, 10)]
    assert [place for _, place in chosen] == ["the lower quartile", "the median", "the upper quartile"]
    assert {utterance.test_set for utterance, _ in chosen} == {"test-unseen"}


def test_tables_and_page_have_both_recognisers_of_a_test_set_in_two_languages(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    _, page = scripts
    rows = [
        row
        for system in ("input", "nano")
        for row in (
            *in_two_languages(rows_of(system, test_set="test-human", metrics=OFFLINE)),
            *rows_of(system, test_set="test-unseen", metrics=OFFLINE),
        )
    ]
    unseen, human = page._numbers(write_run(tmp_path, "tse", rows))
    assert [table["test_set"] for table in (unseen, human)] == ["test-unseen", "test-human"]
    assert [cell.text for cell in unseen["header"]] == ["WER % (tiny.en) ↓", "SIM (ge2e) ↑"]
    assert [cell.text for cell in human["header"]] == ["WER % (base) ↓", "WER % (tiny.en) ↓", "SIM (ge2e) ↑"]
    for system, _, cells in human["lines"]:
        assert system.text in ("input", "nano")
        # 6 edits in 60 words, and 13 in 70.
        assert [cell.text for cell in cells[:2]] == ["10.0", "18.6"]
    assert "n/a: nano, in a language of another recogniser: 7 × WER (base), WER (tiny.en)" in human["remarks"]
    ours = page.tables(tmp_path)["table_03.md"]
    assert "WER % (base) ↓" in ours and "7 × WER (base), WER (tiny.en)" in ours


def test_wrong_words_are_marked_and_reasons_told(scripts: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    _, page = scripts
    first, second, third, *rest = rows_of("nano", test_set="test-unseen", metrics=OFFLINE)
    second |= {
        "wer": {"edits": 1, "words": 3, "text": "put a lid", "hypothesis": "but a lid"},
        "hypothesis": "But a lid",
    }
    third |= {"hypothesis": "", "failed": ["SIM_ge2e"], "error": {"SIM_ge2e": "too short"}}
    third["metrics"]["SIM_ge2e"] = None
    comparison = read_comparison(write_run(tmp_path, "tse", [first, second, third, *rest]), "tse", None)
    rows = {utterance.id: utterance.entries["nano"].row for utterance in comparison.utterances}
    assert page._heard(rows["utt-01"]) == [("but", False), ("a", True), ("lid", True)]
    assert page._remarks(rows["utt-01"]) == []
    assert page._remarks(rows["utt-02"]) == ["too short", "no words were heard"]
    # What the test set lacks is no remark on the system.
    assert page._remarks(rows["utt-00"]) == []
    assert page._scores(comparison, rows["utt-01"]) == ["WER 10%", "SIM 0.64"]
    assert page._scores(comparison, rows["utt-02"]) == ["WER 20%"]


def test_omni_answers_the_paper_s_tse_alone_where_it_is_the_only_part(
    scripts: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = scripts
    omni = {"answers": ["tts", "vc", "tse", "se"]}
    monkeypatch.setattr(results, "part_config", lambda bundle, task: None if task == "l2s" else omni)
    assert [run.name for run in results.planned_runs("any")] == ["tts", "vc", "tse", "se", "omni"]
    assert results.planned_runs("any")[-1].options == ("--test-sets", "test-unseen")
    options = [run.options for run in results.planned_runs("any", is_unseen=True)]
    assert options[:2] == [("--test-sets", "test-unseen-tts"), ("--test-sets", "test-unseen-vc")]


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no results of nano are committed")
def test_what_is_committed_comes_out_again(scripts: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    _, page = scripts
    again = tmp_path / "nano"
    shutil.copytree(COMMITTED, again, ignore=shutil.ignore_patterns("tables", "index.html"))
    page.write(again)
    assert files_of(again) == files_of(COMMITTED)
    # And the pictures are those of the clips.
    for clip in sorted(COMMITTED.rglob("nano.opus")):
        brightness = np.asarray(Image.open(clip.with_suffix(".webp")).convert("L")).astype(float).mean(0)
        mel = log_mel(read_audio(clip, WAVE_RATE)).mean(0)
        frames = min(len(brightness), len(mel) // 2)
        assert abs(len(brightness) - len(mel) / 2) <= 2
        assert np.corrcoef(brightness[:frames], mel[: 2 * frames].reshape(-1, 2).max(1))[0, 1] > 0.8
