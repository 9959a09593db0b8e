"""Items for other tools, and what they make of them: exported by id, found again under the names that they give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fake_corpora import dns, librimix, librimix_storage, voice
from metis_lightning.cli import main as cli
from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.media.audio import read_audio, read_recording
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import read_rows
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.run.outputs import read_output
from metis_lightning.evaluate.run.plan import make_plan
from metis_lightning.evaluate.run.shard import scoring_item
from metis_lightning.metrics.dnsmos import DnsmosMetric
from metis_lightning.metrics.intrusive import pesq, si_sdr
from metis_lightning.metrics.suite import Suite, SuiteOptions
from quick_pool import QuickPool

MakeOptions = Callable[..., EvaluateOptions]


def seedtts(root: Path) -> Path:
    """Seed-TTS-eval with three lines, of which two have one prompt."""
    (root / "en/prompt-wavs").mkdir(parents=True)
    for name in ("p1", "p2"):
        soundfile.write(root / f"en/prompt-wavs/{name}.wav", voice(1.0, 3), 16_000)
    lines = [f"u{n}|What {p} says.|prompt-wavs/{p}.wav|Words." for n, p in ((1, "p1"), (2, "p1"), (3, "p2"))]
    (root / "en/meta.lst").write_text("\n".join(lines))
    return root


def corpus_of(name: str, tmp_path: Path) -> tuple[list[str], Path]:
    """Return the options for a fake corpus, and its folder."""
    if name == "librimix":
        root = librimix(librimix_storage(tmp_path / "storage"), 16_000, "min", ("mix_clean",))
        assert cli.main(["prepare", "librimix", "--root", str(root), "--out", str(root / "librimix.jsonl")]) == 0
    else:
        root = {"dns": dns, "seedtts": seedtts}[name](tmp_path / name)
    task = {"librimix": "tse", "dns": "se", "seedtts": "tts"}[name]
    return ["--task", task, "--data", name, "--root", str(root), "--max-failed-share", "1"], root


@pytest.mark.parametrize(
    ("name", "test_set", "files"),
    [
        ("seedtts", "seedtts-en", ["u1.wav", "u2.wav", "u3.wav"]),
        ("dns", "no_reverb", [f"enhanced_snr3_fileid_{n}.wav" for n in (0, 7, 300)]),
        ("librimix", "librimix-test", ["s1/11-1-0000_22-2-0000.wav", "s2/11-1-0000_22-2-0000.wav"]),
    ],
)
def test_files_are_found_by_the_names_that_other_tools_give(
    name: str, test_set: str, files: list[str], tmp_path: Path, make_options: MakeOptions
) -> None:
    options, _ = corpus_of(name, tmp_path)
    folder = tmp_path / "theirs"
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / file, voice(0.5, number), 16_000)
    limit = ("--test-sets", test_set, "--limit", str(len(files)), "--no-controls")
    run = make_options(*options, *limit, "--system", f"theirs=wavs:{folder}")
    run_evaluate(run, QuickPool)
    rows = read_rows(run.out)
    assert len(rows) == len(files)
    assert all(row.metrics["LEVEL"] for row in rows), [row.error for row in rows]
    assert {row.sample_rate for row in rows} == {16_000}
    if name == "seedtts":
        # Lines with one prompt are of one voice.
        assert [row.speaker for row in rows] == ["p1", "p1", "p2"]


def test_both_conditions_of_the_dns_challenge_lie_in_folders(tmp_path: Path, make_options: MakeOptions) -> None:
    """Numbers at the end of names are those of files in both of them, so alone they name nothing."""
    options, _ = corpus_of("dns", tmp_path)
    for number, condition in enumerate(("no_reverb", "with_reverb")):
        (tmp_path / "theirs" / condition).mkdir(parents=True)
        soundfile.write(tmp_path / "theirs" / condition / "enhanced_fileid_7.wav", voice(0.5, number), 16_000)
    sets = ("--test-sets", "no_reverb", "with_reverb", "--no-controls")
    run = make_options(*options, *sets, "--system", f"theirs=wavs:{tmp_path / 'theirs'}")
    run_evaluate(run, QuickPool)
    found = [row.id for row in read_rows(run.out) if row.metrics["LEVEL"] is not None]
    assert [name.endswith("fileid_7") for name in found] == [True, True]


def test_a_folder_in_which_no_id_fits_is_refused_at_the_start(
    tmp_path: Path, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    soundfile.write(folder / "mix-17.wav", voice(0.5, 0), 16_000)
    options = make_options("--task", "tse", "--limit", "2", "--system", f"wavs:{folder}")
    monkeypatch.setattr(QuickPool, "__enter__", None)
    with pytest.raises(UserError, match="files for 0 of 4 items: one is called mix-17.wav, an item test-human_000;"):
        run_evaluate(options, QuickPool)
    assert not options.out.exists()


def test_items_are_exported_and_score_as_they_do_here(tmp_path: Path, make_options: MakeOptions) -> None:
    options, root = corpus_of("librimix", tmp_path)
    items = tmp_path / "items"
    run_evaluate(make_options(*options, "--limit", "2", "--export", str(items)), QuickPool)
    assert not Path("results").exists()
    folder = items / "librimix-test"
    lines = [json.loads(line) for line in (folder / "list.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["11-1-0000_22-2-0000_s1", "11-1-0000_22-2-0000_s2"]
    assert lines[1] | {"mixture": "mixture/11-1-0000_22-2-0000_s2.wav", "speaker": "22"} == lines[1]
    wave, rate = soundfile.read(folder / lines[0]["mixture"])
    theirs, their_rate = soundfile.read(root / "test/mix_clean/11-1-0000_22-2-0000.wav")
    assert (rate, their_rate) == (16_000, 16_000)
    assert np.abs(wave - theirs).max() < 1e-4
    scp = dict(line.split(maxsplit=1) for line in (folder / "mixture.scp").read_text().splitlines())
    assert Path(scp[lines[0]["id"]]) == (folder / lines[0]["mixture"]).resolve()
    assert (folder / "utt2spk").read_text().splitlines()[1] == "11-1-0000_22-2-0000_s2 22"
    back = make_options(*options, "--limit", "2", "--system", "input", f"back=wavs:{folder / 'mixture'}")
    run_evaluate(back, QuickPool)
    rows = read_rows(back.out)
    assert [row.metrics["MSE"] for row in rows[:2]] == pytest.approx([r.metrics["MSE"] for r in rows[2:]])


def test_16_khz_is_scored_at_16_khz(tmp_path: Path, make_options: MakeOptions) -> None:
    """By way of 24 kHz the white noise lost its upper end: SI-SDR +0.25 dB, OVRL +0.05."""
    clean = read_audio(STARTER_ROOT / "audio/human/allison/allison_conf-getpin.opus", 16_000).numpy()
    noisy = clean + 0.1 * clean.std() * np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    root = dns(tmp_path / "dns")
    folder = root / "datasets/test_set/synthetic/no_reverb"
    shutil.rmtree(folder)
    for kind, wave in (("noisy/clnsp1_snr2_fileid_1", noisy), ("clean/clean_fileid_1", clean)):
        (folder / kind).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{kind}.wav", wave, 16_000, subtype="FLOAT")
    where = ("--task", "se", "--data", "dns", "--root", str(root), "--test-sets", "no_reverb")
    plan = make_plan(make_options(*where, "--system", "input", f"theirs=wavs:{folder / 'noisy'}"), "cpu")
    suite = Suite(SuiteOptions(task="se", asr=(), speakers=()))
    direct = {
        "SI_SDR": si_sdr(noisy, clean),
        "PESQ": pesq(noisy, clean),
        "DNSMOS_OVRL": DnsmosMetric().rate(noisy).ovrl,
    }
    for system in plan.systems:
        (job,) = plan.jobs_of(system)
        item = job.test_set.reader.load_item(job.trial)
        values = suite.score(scoring_item("se", job, item, system.load()(job.trial, item, 0)))
        assert {name: values[name].value for name in direct} == pytest.approx(direct, abs=1e-9), system.name
    # What a model is given is at 24 kHz all the same.
    assert item.mixture.shape[0] == round(len(noisy) * 1.5)


def test_an_output_of_any_rate_is_read_as_it_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", voice(0.5, 1, 8_000), 8_000)
    output = read_output(tmp_path / "a.wav")
    assert (output.rate, len(output.samples())) == (8_000, 4_000)
    assert output.samples().equal(read_recording(tmp_path / "a.wav").wave)
