"""The builder of manifests: resumable, shared between processes and jobs, checked, and strict about faults."""

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.manifest.records import check_manifest, read_manifest
from metis_lightning.data.manifest.scan import CorpusScan, Fault, Shard
from metis_lightning.errors import UserError


@dataclass(frozen=True)
class Numbers(CorpusScan):
    """Six pieces of ten utterances; files in the root can break a piece or add faults."""

    root: str
    layout = "nothing"

    def shards(self):
        return [Shard(f"piece{n}", "new" if (Path(self.root) / f"changed{n}").exists() else "") for n in range(6)]

    def scan(self, shard):
        number = int(shard.name[-1])
        with (Path(self.root) / "scanned").open("a") as log:
            log.write(f"{number}\n")
        if (Path(self.root) / f"stop{number}").exists():
            raise KeyboardInterrupt
        for item in range(10):
            yield self.row(f"u{number}{item}")
            if item == 5 and (Path(self.root) / f"kill{number}").exists():
                os.kill(os.getpid(), signal.SIGKILL)
        if (Path(self.root) / f"fault{number}").exists():
            yield Fault(shard.name, "odd", "very")
        if (Path(self.root) / f"twice{number}").exists():
            yield self.row("u00")

    def row(self, name):
        fields = {"id": name, "path": f"{name}.wav", "speaker": f"s{name[1]}", "text": "ü", "language": "en-GB"}
        return {**fields, "seconds": 36.0, "sample_rate": 16_000, "split": "train"}


@pytest.fixture
def scan(tmp_path):
    (tmp_path / "c").mkdir()
    return Numbers(str(tmp_path / "c"))


@pytest.fixture
def options(tmp_path):
    return BuildOptions(tmp_path / "m.jsonl")


def scanned(scan):
    log = Path(scan.root) / "scanned"
    pieces = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(pieces)


def mark(scan, name):
    (Path(scan.root) / name).touch()


def test_a_manifest_its_summary_and_its_checksum(scan, options):
    summary = build_manifest(scan, options)
    assert (summary.utterances, summary.speakers, summary.faults.total()) == (60, 6, 0)
    assert summary.hours == pytest.approx(0.6)
    utterances = read_manifest(options.out)
    assert [u.id for u in utterances] == [f"u{n}{i}" for n in range(6) for i in range(10)]
    assert {u.language for u in utterances} == {"en"}
    check_manifest(options.out)
    stored = json.loads(options.out.with_suffix(".summary.json").read_text())
    assert (stored["utterances"], stored["sha256"]) == (60, summary.sha256)
    content = options.out.read_bytes()
    for damaged in (content[:-10], content.replace(b"u00", b"u01", 1), b""):
        options.out.write_bytes(damaged)
        with pytest.raises(UserError, match="checksum"):
            check_manifest(options.out)


def test_an_interrupted_run_goes_on_where_it_stopped(scan, options):
    mark(scan, "stop3")
    with pytest.raises(KeyboardInterrupt):
        build_manifest(scan, options)
    assert scanned(scan) == ["0", "1", "2", "3"]
    assert not options.out.exists()
    # What a killed process leaves behind is no piece.
    (options.out.with_suffix(".parts") / ".x.jsonl").write_text("{")
    (Path(scan.root) / "stop3").unlink()
    assert build_manifest(scan, options).utterances == 60
    assert scanned(scan) == ["3", "4", "5"]
    assert build_manifest(scan, options).utterances == 60
    assert scanned(scan) == []


def test_a_killed_run_leaves_nothing_half_done(scan, options, tmp_path):
    expected = build_manifest(scan, BuildOptions(tmp_path / "whole.jsonl"))
    scanned(scan)
    mark(scan, "kill2")
    process = multiprocessing.get_context("fork").Process(target=build_manifest, args=(scan, options))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not options.out.exists()
    (Path(scan.root) / "kill2").unlink()
    scanned(scan)
    assert build_manifest(scan, options).sha256 == expected.sha256
    assert scanned(scan) == ["2", "3", "4", "5"]
    assert len(list(options.out.with_suffix(".parts").iterdir())) == 6


def test_only_what_changed_is_scanned_again(scan, options):
    build_manifest(scan, options)
    before = options.out.read_bytes()
    scanned(scan)
    mark(scan, "changed4")
    build_manifest(scan, options)
    assert scanned(scan) == ["4"]
    assert options.out.read_bytes() == before
    assert len(list(options.out.with_suffix(".parts").iterdir())) == 6


def test_jobs_share_the_work_and_the_last_one_writes(scan, options, capsys):
    assert build_manifest(scan, replace(options, shard=(1, 2))) is None
    assert "3 of 6 pieces are left" in capsys.readouterr().out
    assert scanned(scan) == ["1", "3", "5"]
    assert not options.out.exists()
    assert build_manifest(scan, replace(options, shard=(0, 2))).utterances == 60
    assert scanned(scan) == ["0", "2", "4"]


def test_faults_are_counted_listed_and_skipped_only_below_the_share(scan, options):
    mark(scan, "fault1")
    mark(scan, "fault2")
    with pytest.raises(UserError, match=r"2 odd: a share of 3\.2258% is faulty, more than --max-faults 0\.02"):
        build_manifest(scan, replace(options, max_faults=0.02))
    assert not options.out.exists()
    faults = [json.loads(line) for line in options.out.with_suffix(".faults.jsonl").read_text().splitlines()]
    assert [(f["where"], f["kind"], f["detail"]) for f in faults] == [(f"piece{n}", "odd", "very") for n in (1, 2)]
    scanned(scan)
    assert build_manifest(scan, replace(options, max_faults=0.04)).faults == {"odd": 2}
    assert scanned(scan) == []


def test_an_id_that_occurs_twice_is_a_fault(scan, options):
    mark(scan, "twice5")
    with pytest.raises(UserError, match="1 id occurs twice"):
        build_manifest(scan, options)
    assert build_manifest(scan, replace(options, max_faults=0.1)).utterances == 60
    assert len(read_manifest(options.out)) == 60


def test_nothing_to_prepare(options, tmp_path):
    class Empty(Numbers):
        def shards(self):
            return []

    with pytest.raises(UserError, match="nothing to prepare; looked for nothing"):
        build_manifest(Empty(str(tmp_path)), options)
