"""Which of our results stand beside a row of the paper's, and how their words are counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from documented import REPOSITORY
from metis_lightning.evaluate.results.runs import find_results
from metis_lightning.evaluate.tables.benchmarks import read_benchmarks
from metis_lightning.evaluate.tables.main import write_tables
from metis_lightning.evaluate.tables.paper_rows import paper_cells, results_for
from small_results import OFFLINE, in_two_languages, rows_of, write_run

BENCHMARKS = REPOSITORY / "evaluation/benchmarks"
VC = ("WER_whisper-large-v3", "SIM_wavlm-large", "DNSMOS_OVRL", "NISQA")


def ran(results: Path, name: str, system: str, settings: object, **chosen: Any) -> None:
    rows = rows_of(system, **chosen)
    write_run(results, name, rows, systems={system: {"bundle": "x", "settings": settings}})


def test_rows_that_name_a_guidance_are_filled_by_such_runs_only(tmp_path: Path) -> None:
    chosen = {"test_set": "vctk", "metrics": VC, "task": "vc"}
    for name, scale in (("released", 1.0), ("none", 0.0), ("two", 2.0)):
        settings = {"stage1": {"num_steps": 20, "guidance_scale": scale}}
        ran(tmp_path / "results", name, "table_02_vc_lora_16", settings, better=scale, **chosen)
    ran(tmp_path / "results", "full", "table_02_vc_finetune", {"stage1": {"guidance_scale": 1.0}}, **chosen)
    ran(tmp_path / "results", "old", "table_02_vc_finetune", "Settings(stage1=...)", better=0.1, **chosen)
    results = find_results(tmp_path / "results")
    (table,) = (benchmark for benchmark in read_benchmarks(BENCHMARKS) if benchmark.table == 2)
    stand = {row.system: [result.run for result in results_for(table, row, results)] for row in table.rows}
    assert stand["Metis-VC LoRA 16, cfg=0.0"] == ["none"]
    assert stand["Metis-VC LoRA 16, cfg=2.0"] == ["two"]
    assert stand["Metis-VC fine-tune, cfg=0.0"] == []

    write_tables(tmp_path / "results", tmp_path / "out", BENCHMARKS)
    text = (tmp_path / "out/table_02.md").read_text()
    assert "Run full does not stand here: stage1.guidance_scale is 1.0, the row's is 0.0." in text
    assert "Run old does not stand here: its settings are not known." in text
    _, ours = (line for line in text.splitlines() if "| Metis-VC fine-tune, cfg=0.0 " in line)
    assert re.search(r"\| ours\[\^\d+\]\[\^\d+\] +\|( +– \|)+$", ours)


def test_text_guided_extraction_is_a_row_of_its_own(tmp_path: Path) -> None:
    for name, guided in (("heard", False), ("told", True)):
        settings = {"tse": {"text_guided": guided}, "se": {}}
        ran(tmp_path, name, "table_06_omni_finetune", settings, task="omni", better=0.1 * guided)
    results = find_results(tmp_path)
    (table,) = (benchmark for benchmark in read_benchmarks(BENCHMARKS) if benchmark.table == 6)
    stand = {row.system: [result.run for result in results_for(table, row, results)] for row in table.rows}
    assert stand["Metis-Omni fine-tune"] == ["heard"]
    assert stand["Metis-Omni fine-tune, text-guided"] == ["told"]


@pytest.mark.parametrize(("test_set", "task", "tables"), [("vctk", "vc", (2, 11)), ("seedtts-en", "tts", (1, 11))])
def test_one_result_is_one_word_error_rate_in_every_table(
    test_set: str, task: str, tables: tuple[int, int], tmp_path: Path
) -> None:
    """VCTK's row of Metis-VC stood beside all edits over all words in table 2, and beside a mean in table 11."""
    name = "table_02_vc_finetune" if task == "vc" else "table_01_tts_finetune_10k"
    rows = rows_of(name, test_set=test_set, metrics=VC, task=task)
    for index, row in enumerate(rows):
        if row["wer"]:
            row["wer"]["words"] = 5 + index
            row["metrics"][VC[0]] = row["wer"]["edits"] / row["wer"]["words"]
    settings = {"stage1": {"guidance_scale": 0.0}}
    write_run(tmp_path, "run", rows, systems={name: {"settings": settings}})
    (result,) = find_results(tmp_path)
    found = set()
    for benchmark in read_benchmarks(BENCHMARKS):
        for row in benchmark.rows if benchmark.table in tables else ():
            for each in results_for(benchmark, row, [result]):
                found |= {cell.ours.mean for cell in paper_cells(benchmark, row, each) if cell.metric == "WER"}
    record = result.metrics[VC[0]]
    assert found == {100 * (record.corpus.rate if task == "vc" else record.mean)}
    assert record.corpus.rate != record.mean


def test_copied_baselines_name_their_origin(tmp_path: Path) -> None:
    write_tables(None, tmp_path, BENCHMARKS)
    for table, system, origin in (
        (2, "LM-VC", "the Vevo paper"),
        (4, "SELM", "the MaskSR paper"),
        (7, "VoiceBox", "the NaturalSpeech 3 paper"),
    ):
        text = (tmp_path / f"table_{table:02}.md").read_text()
        assert re.search(rf"\| {system} .*\| paper\[\^\d+\] ", text)
        assert f"Not measured by the paper's authors: the numbers are those of {origin}." in text
        assert "but for rows with a note on their origin" in text
    assert "note on their origin" not in (tmp_path / "table_03.md").read_text()


def test_emiliamix_is_held_against_the_transcript_of_the_target(tmp_path: Path) -> None:
    metrics = ("WER_asr_whisper-large-v3", "DNSMOS_SIG")
    write_run(tmp_path, "run", rows_of("target", test_set="emiliamix", metrics=metrics))
    (table,) = (benchmark for benchmark in read_benchmarks(BENCHMARKS) if benchmark.table == 3)
    (row,) = (row for row in table.rows if (row.test_set, row.system) == ("EmiliaMix test", "Ground Truth"))
    (result,) = results_for(table, row, find_results(tmp_path))
    wer = next(cell for cell in paper_cells(table, row, result) if cell.metric == "WER")
    assert (wer.ours.summary.column.name, wer.caveats) == ("WER_asr_whisper-large-v3", ())
    assert wer.ours.mean == 100 * result.metrics[metrics[0]].corpus.rate


def test_of_two_recognisers_that_stands_beside_the_papers_which_most_went_to(tmp_path: Path) -> None:
    write_run(tmp_path, "run", in_two_languages(rows_of("target", metrics=OFFLINE)))
    (table,) = (benchmark for benchmark in read_benchmarks(BENCHMARKS) if benchmark.table == 3)
    (row,) = (row for row in table.rows if (row.test_set, row.system) == ("LibriMix test", "Ground Truth"))
    (result,) = results_for(table, row, find_results(tmp_path))
    wer = next(cell for cell in paper_cells(table, row, result) if cell.metric == "WER")
    # Seven utterances, and six of the other seven, of which one has no text.
    assert [result.metrics[name].n for name in ("WER_tiny.en", "WER_base")] == [7, 6]
    assert wer.ours.summary.column.name == "WER_tiny.en"
    assert "WER: n/a for 7 × in a language of another recogniser." in wer.gaps
