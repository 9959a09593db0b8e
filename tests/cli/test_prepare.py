"""`prepare` from the command line."""

import subprocess
import sys

import pytest

from fake_corpora import (
    dns,
    emilia_members,
    librimix,
    librimix_storage,
    librispeech,
    put,
    tar_bytes,
)
from metis_lightning.cli import main as cli
from metis_lightning.cli.prepare import CORPORA
from metis_lightning.data.manifest.records import read_manifest


@pytest.fixture
def run(capsys):
    def call(*args):
        status = cli.main(["prepare", *map(str, args)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.parametrize("corpus", [[], *([name] for name in CORPORA)])
def test_help_has_examples_and_needs_no_torch(corpus):
    code = (
        "import sys; from metis_lightning.cli.main import main\n"
        f"try: main(['prepare', *{corpus!r}, '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(len({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python -m metis_lightning prepare {corpus[0] if corpus else 'emilia'} --root" in done.stdout


def test_emilia_by_two_workers_says_what_it_found(run, tmp_path):
    for number in range(3):
        members = emilia_members(f"EN_B0000{number}_S00000", range(2))
        put(tmp_path / f"c/EN/EN-B00000{number}.tar", tar_bytes(members if number else members[:-1]))
    out = tmp_path / "m.jsonl"
    status, _, error = run("emilia", "--root", tmp_path / "c", "--out", out, "--workers", 2)
    assert status == 2
    assert "1 missing pair: a share of 16.6667% is faulty" in error
    status, text, _ = run("emilia", "--root", tmp_path / "c", "--out", out, "--max-faults", 0.2)
    assert status == 0
    assert "emilia: 5 utterances, 0.00 h, 3 speakers, 1 faults" in text
    assert "left out: 1 missing pair; listed in" in text
    assert "Hz: 24000 (5)" in text
    assert len(read_manifest(out, str(tmp_path / "c"))) == 5


def test_the_other_corpora(run, tmp_path):
    storage = librimix_storage(tmp_path / "s")
    root = librimix(storage, 8000, "max", ("mix_both",))
    speech = ("--librispeech", storage / "LibriSpeech")
    calls = {
        ("librimix", "--root", root, "--mix", "mix_both", *speech): 8,
        ("librimix", "--root", storage, "--metadata", storage / "libri2mix_test-clean.csv", "--rate", 8000): 8,
        ("librispeech", "--root", librispeech(tmp_path / "ls"), "--subsets", "test-clean"): 6,
        ("dns", "--root", dns(tmp_path / "dns"), "--check", "header"): 10,
    }
    for number, (call, count) in enumerate(calls.items()):
        status, text, error = run(*call, "--out", tmp_path / f"{number}.jsonl")
        assert (status, error) == (0, "")
        assert f"{call[0]}: {count} utterances" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("emilia", "--root", "none", "--out", "m.jsonl"), "none: no such folder"),
        (("emilia", "--root", ".", "--out", "m.jsonl"), "nothing to prepare; looked for"),
        (("emilia", "--root", ".", "--out", "m.txt"), "ends with .jsonl"),
        (("emilia", "--root", "nofs://x", "--out", "m.jsonl"), "fsspec cannot open"),
        (("emilia", "--root", ".", "--out", "m.jsonl", "--shard", "2/2"), "not I/N"),
        (("emilia", "--root", ".", "--out", "m.jsonl", "--max-faults", "2"), "between 0 and 1"),
        (("emilia", "--out", "m.jsonl"), "--root"),
        (("vctk", "--root", "none", "--out", "m.jsonl"), "no such folder"),
        (("dns", "--root", "none", "--out", "m.jsonl"), "no such folder"),
        (("librispeech", "--root", "none", "--out", "m.jsonl"), "no such folder"),
        (("librimix", "--root", "none", "--out", "m.jsonl"), "nothing to prepare"),
        (("emilias", "--root", "."), "unknown command 'prepare emilias': did you mean 'prepare emilia'?"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(*args)
    assert status == 2
    assert len(error.splitlines()) == 1
    assert message in error
