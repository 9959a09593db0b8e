"""Systems side by side: which results are taken, the page's data, the TensorBoard runs."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError
from metis_lightning.evaluate.compare.clips import difference_picture, mel_difference, read_clips
from metis_lightning.evaluate.compare.main import ComparePage, run_compare
from metis_lightning.evaluate.compare.tensorboard import folder_names
from metis_lightning.evaluate.html.document import log_mel, picture
from metis_lightning.evaluate.options import CompareOptions
from metis_lightning.evaluate.results.comparison import read_comparison
from small_results import rows_of, write_run, write_wavs

SYSTEMS = ("input", "target", "nano")
STRANGE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [row for index, system in enumerate(SYSTEMS) for row in rows_of(system, 0.1 * index)[:4]]
    for row in rows:
        if row["id"] == "utt-02":
            row["hypothesis"] = row["text"] = STRANGE
    folder = write_run(tmp_path / "results", "demo", rows)
    write_wavs(folder, rows)
    return tmp_path / "results"


def options(results: Path, **changed: Any) -> CompareOptions:
    given = {"task": "tse", "systems": tuple(SYSTEMS), "results": results, "out": results.parent / "out"}
    return CompareOptions(**{**given, "limit": 50, "sort": None, **changed})


def page_data(out: Path) -> dict[str, Any]:
    found = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>', (out / "index.html").read_text(), re.DOTALL
    )
    assert len(found) == 1
    return json.loads(found[0])


def decoded(uri: str, kind: str) -> io.BytesIO:
    head, content = uri.split(",", 1)
    assert head == f"data:{kind};base64"
    return io.BytesIO(base64.b64decode(content))


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_has_every_system_of_every_utterance(results: Path) -> None:
    run_compare(options(results))
    data = page_data(results.parent / "out")
    assert data["head"]["systems"] == list(SYSTEMS)
    assert [u["id"] for u in data["utterances"]] == ["utt-00", "utt-03", "utt-02", "utt-01"], (
        "no value, then 3, 2, 1 edits"
    )
    for utterance in data["utterances"]:
        for entry, system in zip(utterance["entries"], SYSTEMS, strict=True):
            sound, rate = soundfile.read(decoded(entry["audio"], "audio/ogg"))
            wave = read_audio(results / f"demo/wavs/{system}/{utterance['id']}.wav", 24_000).numpy()
            assert (rate, len(sound), entry["seconds"]) == (24_000, 12_000, 0.5)
            assert np.corrcoef(sound[2000:10_000], wave[2000:10_000])[0, 1] > 0.95
            assert Image.open(decoded(entry["mel"], "image/webp")).size == (51, 80)
            # The tone's peak in every part but the edges.
            assert len(entry["peaks"]) == 160 and set(entry["peaks"][5:-5]) <= {29, 30}
    points = data["head"]["points"]
    assert points["items"][0][1] == "utt-00" and len(points["values"]["DNSMOS_SIG"]) == len(SYSTEMS)
    assert points["values"]["WER_whisper-large-v3"][0] == [None, 10.0, 20.0, 30.0]
    first = data["utterances"][0]["entries"][0]
    assert (first["values"]["WER_whisper-large-v3"], first["errors"]) == (
        None,
        {"WER_whisper-large-v3": "no reference text"},
    )
    assert data["utterances"][1]["entries"][0]["values"]["WER_whisper-large-v3"] == pytest.approx(30.0)
    [summary] = [r for r in data["head"]["results"] if r["system"] == "nano"]
    assert (summary["n"], summary["means"]["WER_whisper-large-v3"]["nFailed"]) == ("4", 0)


def test_nothing_of_the_results_can_be_markup(results: Path) -> None:
    run_compare(options(results))
    page = (results.parent / "out/index.html").read_text()
    assert "<img" not in page and page.count("<script") == page.count("</script>") == 2
    assert page_data(results.parent / "out")["utterances"][2]["text"] == STRANGE
    assert "default-src 'none'" in page and "unsafe" not in page
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|https?://", page)


def test_the_worst_come_first_and_limit_keeps_them(results: Path) -> None:
    run_compare(options(results, limit=2, sort="SIM_wavlm-large"))
    data = page_data(results.parent / "out")
    assert [u["id"] for u in data["utterances"]] == ["utt-00", "utt-01"]
    assert (data["head"]["total"], data["head"]["sort"]) == (4, {"metric": "SIM_wavlm-large", "system": "nano"})


def test_a_page_does_not_grow_beyond_its_room(results: Path) -> None:
    comparison = read_comparison(results, "tse", SYSTEMS)
    heard = [read_clips(u, SYSTEMS, lambda path: read_audio(path, 24_000)) for u in comparison.utterances]

    def filled(room: int) -> tuple[int, str]:
        page = ComparePage(comparison, "NISQA", "nano", max_bytes=room)
        for one in heard:
            page.add(one)
        return page.count, page.html()

    _, empty = filled(0)
    count, whole = filled(10**9)
    assert count == 4 and '"isFull":false' in whole
    room = (len(whole) - len(empty)) // 2
    count, part = filled(room)
    assert 0 < count < 4 and '"isFull":true' in part
    assert len(part) <= len(empty) + room + count


def test_a_long_recording_is_cut(results: Path) -> None:
    comparison = read_comparison(results, "tse", SYSTEMS)
    heard = read_clips(comparison.utterances[0], SYSTEMS, lambda _: torch.zeros(24_000 * 31))
    clip = heard.clips["nano"]
    assert (len(clip.wave), clip.is_cut, clip.mel.shape) == (24_000 * 30, True, (80, 3001))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../../secret", "its name leaves the folder of the run"),
        ("/etc/passwd", "its name leaves the folder of the run"),
        ("a\0b", "its name is not that of a file"),
        ("x" * 300, "its name is not that of a file"),
        ("nobody", "no audio file"),
    ],
)
def test_an_id_reaches_no_file_outside_its_run(tmp_path: Path, name: str, reason: str) -> None:
    rows = rows_of("nano")[:2]
    rows[1]["id"] = name
    folder = write_run(tmp_path / "results", "demo", rows)
    write_wavs(folder, rows[:1])
    soundfile.write(tmp_path / "secret.wav", np.zeros(2400), 24_000)
    [_, utterance] = read_comparison(tmp_path / "results", "tse", None).utterances
    assert (utterance.entries["nano"].wav, utterance.entries["nano"].missing) == (None, reason)


def test_a_link_out_of_the_run_is_not_followed(results: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", np.zeros(2400), 24_000)
    path = results / "demo/wavs/nano/utt-01.wav"
    path.unlink()
    path.symlink_to(tmp_path / "secret.wav")
    utterance = read_comparison(results, "tse", ["nano"]).utterances[1]
    assert utterance.entries["nano"].missing == "its name leaves the folder of the run"


def test_missing_and_broken_audio_is_said(results: Path) -> None:
    (results / "demo/wavs/nano/utt-00.wav").write_bytes(b"no sound")
    (results / "demo/wavs/input/utt-01.wav").unlink()
    run_compare(options(results))
    data = {u["id"]: u for u in page_data(results.parent / "out")["utterances"]}
    assert data["utt-00"]["entries"][2]["missing"] == "the audio file cannot be read"
    assert data["utt-01"]["entries"][0]["missing"] == "no audio file"
    assert data["utt-01"]["entries"][0]["audio"] is None


def test_reasons_of_failures_are_in_the_cell(results: Path) -> None:
    rows = [json.loads(line) for line in (results / "demo/utterances.jsonl").read_text().splitlines()]
    broken = next(row for row in rows if (row["system"], row["id"]) == ("nano", "utt-01"))
    broken["metrics"] = {name: None for name in broken["metrics"]} | {"WER_whisper-large-v3": 1.0}
    broken["error"] = dict.fromkeys(broken["metrics"], "the signal has samples that are not finite")
    broken["failed"] = list(broken["metrics"])
    (results / "demo/utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (results / "demo/wavs/nano/utt-01.wav").unlink()
    run_compare(options(results))
    data = page_data(results.parent / "out")
    entry = {u["id"]: u for u in data["utterances"]}["utt-01"]["entries"][2]
    assert entry["missing"] == "the signal has samples that are not finite"
    assert (entry["values"]["WER_whisper-large-v3"], entry["failed"]) == (100.0, list(broken["metrics"]))
    # What has no worst value is compared on what all have.
    means = {r["system"]: r["means"]["NISQA"] for r in data["head"]["results"]}
    assert [means["nano"][key] for key in ("nCommon", "nItems", "nFailed")] == [3, 4, 1]
    assert means["nano"]["mean"] - means["input"]["mean"] == pytest.approx(0.2)
    assert means["nano"]["clusters"] == "2 speakers"


def test_words_are_shown_as_they_were_compared(results: Path) -> None:
    rows = [json.loads(line) for line in (results / "demo/utterances.jsonl").read_text().splitlines()]
    rows[1]["wer"] |= {"text": "they say 6 months", "hypothesis": "they say 6 months"}
    (results / "demo/utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_compare(options(results))
    entries = {u["id"]: u for u in page_data(results.parent / "out")["utterances"]}["utt-01"]["entries"]
    assert entries[0]["compared"] == {"text": "they say 6 months", "hypothesis": "they say 6 months"}
    assert entries[1]["compared"] is None, "rows of an earlier version do not have it"


# --- which results ---------------------------------------------------------------------------------------------------


def test_one_run_and_a_folder_of_runs_are_read(results: Path) -> None:
    assert list(read_comparison(results / "demo", "tse", None).results) == sorted(SYSTEMS)
    assert list(read_comparison(results, "tse", ["nano"]).results) == ["nano"]


def test_a_system_of_several_runs_needs_its_run(results: Path) -> None:
    write_run(results, "other", rows_of("nano", 0.3)[:4], seed=1)
    with pytest.raises(UserError, match="--systems nano: several runs have it; write one of demo/nano, other/nano"):
        read_comparison(results, "tse", ["nano"])
    comparison = read_comparison(results, "tse", ["demo/nano", "other/nano"])
    assert list(comparison.results) == ["demo/nano", "other/nano"]
    assert "several protocols" in comparison.warnings[0]
    assert set(read_comparison(results, "tse", None).results) == {"input", "target", "demo/nano", "other/nano"}


def test_utterances_that_some_systems_lack_are_warned_of(results: Path) -> None:
    write_run(results, "more", rows_of("more")[:6])
    comparison = read_comparison(results, "tse", ["nano", "more"])
    assert len(comparison.utterances) == 6
    assert any("not every system has every utterance (nano 4, more 6)" in text for text in comparison.warnings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"systems": ["nanu"]},
            "--systems nanu: no such system in the results of this task; there are input, nano, target",
        ),
        ({"task": "vc"}, "no results of task vc in"),
        ({"sort": "PESQ"}, "--sort PESQ: the results have WER_whisper-large-v3, "),
        ({"results": Path("nowhere")}, "no folder of results nowhere"),
    ],
)
def test_a_wrong_option_is_named(results: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_compare(CompareOptions(**vars(options(results)) | changed))
    assert not (results.parent / "out/index.html").exists()


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "audio": 0})
    found.Reload()
    return found


def test_every_system_is_a_run_with_the_same_tags(results: Path) -> None:
    run_compare(options(results))
    board = results.parent / "out/tensorboard"
    assert sorted(path.name for path in board.iterdir()) == sorted(SYSTEMS)
    runs = {system: events(board / system) for system in SYSTEMS}
    tags = {system: run.Tags() for system, run in runs.items()}
    assert tags["nano"]["scalars"] == tags["target"]["scalars"] == tags["input"]["scalars"]
    assert {"NISQA/librimix", "utterances/librimix/NISQA"} <= set(tags["nano"]["scalars"])
    assert set(tags["nano"]["audio"]) == {f"audio/librimix/utt-{index:02}" for index in range(4)}
    pictures = {f"{kind}/librimix/utt-{index:02}" for kind in ("mel", "difference") for index in range(4)}
    assert set(tags["nano"]["images"]) == set(tags["input"]["images"]) == pictures
    assert set(tags["target"]["images"]) == {tag for tag in pictures if tag.startswith("mel")}
    [mean] = runs["nano"].Scalars("WER_whisper-large-v3/librimix")
    assert mean.value == pytest.approx(100 * 6 / 30)
    assert [point.value for point in runs["nano"].Scalars("utterances/librimix/WER_whisper-large-v3")] == pytest.approx(
        [30, 20, 10]
    )
    settings = runs["nano"].summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"hash of nano" in settings


def test_a_second_call_replaces_the_runs_and_nothing_else(results: Path) -> None:
    board = results.parent / "out/tensorboard"
    run_compare(options(results))
    (board / "nano/notes.txt").write_text("mine")
    run_compare(options(results, limit=1))
    assert len(list((board / "nano").glob("events*"))) == 1
    assert (board / "nano/notes.txt").read_text() == "mine"
    assert events(board / "nano").Tags()["audio"] == ["audio/librimix/utt-00"]


def test_folders_of_systems_stay_in_their_place() -> None:
    names = folder_names(["../../etc", "/", "a/b", "a_b", ".", "", "x" * 300])
    assert all("/" not in name and name not in ("", ".", "..") and len(name) <= 110 for name in names.values())
    assert len(set(names.values())) == len(names)


# --- spectrograms ----------------------------------------------------------------------------------------------------


def test_a_tone_is_bright_at_its_frequency() -> None:
    time = torch.arange(24_000) / 24_000
    low, high = (log_mel(torch.sin(2 * torch.pi * hertz * time)) for hertz in (200, 6000))
    assert low.shape == (80, 101)
    assert low[:, 50].argmax() < 10 and high[:, 50].argmax() > 50
    shades = picture(low, float(low.max())).sum(axis=2)
    assert shades.shape == (80, 101) and shades[:, 50].argmax() > 69, "low frequencies are below"


def test_a_difference_of_louder_speech_is_red() -> None:
    wave = torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    louder = mel_difference(log_mel(10 * wave), log_mel(wave))
    assert louder is not None and louder == pytest.approx(np.full((80, 101), 20.0), abs=0.01)
    red, _, blue = difference_picture(louder)[40, 50]
    assert red > blue
    assert np.ptp(difference_picture(np.zeros((2, 2)))) < 15, "no difference is white"
    assert mel_difference(log_mel(wave), log_mel(wave[:20_000])) is None
