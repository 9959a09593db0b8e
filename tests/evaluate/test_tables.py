"""Results and the paper's rows as Markdown, LaTeX, CSV and HTML."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from documented import REPOSITORY
from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.runs import find_results
from metis_lightning.evaluate.tables.benchmarks import read_benchmarks
from metis_lightning.evaluate.tables.layout import escape_latex, format_number, grid
from metis_lightning.evaluate.tables.main import write_tables
from small_results import OFFLINE, rows_of, write_run

BENCHMARKS = Path(__file__).parents[2] / "evaluation/benchmarks"
GOLDEN = Path(__file__).parent / "golden"

OURS = "table_03_tse_lora_32"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    write_run(path, "demo", rows_of("input") + rows_of("target", 0.2) + rows_of(OURS, 0.1))
    return path


def table(results: Path | None, out: Path, number: int = 3) -> str:
    write_tables(results, out, BENCHMARKS)
    return (out / f"table_{number:02}.md").read_text()


def cells(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without their rules."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| :")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def of_system(text: str, system: str, test_set: str = "LibriMix test") -> list[list[str]]:
    return [row[2:] for row in cells(text) if row[:2] == [test_set, system]]


def records(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


# --- beside the paper ------------------------------------------------------------------------------------------------


def test_ours_stands_under_the_papers_row_with_the_difference(results: Path, tmp_path: Path) -> None:
    paper, ours, difference = of_system(table(results, tmp_path / "out"), "Metis-TSE LoRA 32")
    assert paper == ["paper", "–", "9.65", "3.66", "4.02", "3.35", "4.38", "0.75"]
    # 13 utterances have a transcript: 19 edits in 130 words.
    assert ours[1] == "14"
    assert re.fullmatch(r"14\.62 \[\d+\.\d\d, \d+\.\d\d; 7\]\[\^\d\]", ours[2])
    # 0.6 + 0.02 × 0…13 + 0.1 + 0.01 for the second column.
    assert re.fullmatch(r"0\.84 \[0\.7\d, 0\.9\d; 7\]", ours[3])
    assert difference[:4] == ["difference", "–", "+4.97", "-2.82"]


def test_what_is_not_measured_is_a_dash_in_every_format(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, ours = of_system(table(results, out), "Metis-TSE LoRA 4")
    assert ours == ["ours"] + ["–"] * 7
    [wer] = [
        r
        for r in records(out / "table_03.csv")
        if (r["system"], r["test_set"], r["metric"]) == ("Metis-TSE LoRA 4", "LibriMix test", "WER")
    ]
    assert (wer["paper"], wer["ours"], wer["difference"], wer["n"], wer["n_failed"], wer["p"]) == ("13.57", *[""] * 5)
    assert "Metis-TSE LoRA 4 & ours & -- & -- & -- & -- & -- & -- & -- \\\\" in (out / "table_03.tex").read_text()


def test_a_metric_that_our_results_lack_is_a_dash(results: Path, tmp_path: Path) -> None:
    rows = rows_of("Metis-TSE LoRA 4")
    for row in rows:
        del row["metrics"]["NISQA"]
    write_run(results, "more", rows)
    _, ours, difference = of_system(table(results, tmp_path), "Metis-TSE LoRA 4")
    assert (ours[6], difference[6]) == ("–", "–")


def test_a_metric_that_failed_everywhere_has_no_number(results: Path, tmp_path: Path) -> None:
    rows = rows_of("Metis-TSE LoRA 4")
    for row in rows:
        row["metrics"]["NISQA"], row["error"]["NISQA"], row["failed"] = None, "silent", ["NISQA"]
    write_run(results, "more", rows)
    _, ours, difference = of_system(table(results, tmp_path), "Metis-TSE LoRA 4")
    assert (ours[6], difference[6]) == ("– (14 failed)", "–")


def test_another_metric_model_is_marked_and_named(results: Path, tmp_path: Path) -> None:
    write_run(results, "offline", rows_of("table_03_tse_finetune", metrics=OFFLINE), metrics={"protocol": "offline"})
    out = tmp_path / "out"
    text = table(results, out)
    paper, ours, difference = of_system(text, "Metis-TSE fine-tune")
    keys = dict(re.findall(r"^\[\^(\d+)\]: (.*)$", text, re.MULTILINE))
    for cell in (ours[2], difference[2]):
        key = re.findall(r"\[\^(\d+)\]", cell)[0]
        assert keys[key].startswith(
            "WER: another protocol than the paper's, made by tiny.en and not by whisper-large-v3"
        )
    assert "made by ge2e and not by wavlm-large" in keys[re.findall(r"\[\^(\d+)\]", ours[7])[0]]
    assert "[^" not in ours[3], "DNSMOS SIG is made by the paper's own model"
    assert "made by tiny.en and not by whisper-large-v3" in (out / "table_03.tex").read_text()
    assert "made by tiny.en and not by whisper-large-v3" in (out / "tables.html").read_text()
    [wer] = [
        r
        for r in records(out / "table_03.csv")
        if r["our_system"] == "table_03_tse_finetune" and r["metric"] == "WER" and r["kind"] == "paper"
    ]
    assert (wer["column"], wer["fingerprint"]) == ("WER_tiny.en", "of-offline")
    assert "another protocol" in wer["notes"]


def test_results_of_several_protocols_are_marked(results: Path, tmp_path: Path) -> None:
    write_run(results, "other-seed", rows_of(OURS), seed=1)
    text = table(results, tmp_path)
    lines = of_system(text, "Metis-TSE LoRA 32")
    assert [line[0].split("[")[0] for line in lines] == ["paper", "ours", "difference", "ours", "difference"]
    keys = dict(re.findall(r"^\[\^(\d+)\]: (.*)$", text, re.MULTILINE))
    said = [[keys[key] for key in re.findall(r"\[\^(\d+)\]", lines[index][0])] for index in (1, 3)]
    assert all(notes[1].startswith("Results of several protocols") for notes in said)
    assert "fingerprint of the run's protocol.json: of-demo" in said[0][0]
    assert "seed 1" in said[1][0] and "of-other-seed" in said[1][0]
    assert text.count("## Ours on librimix, protocol ") == 2
    assert text.count("\nResults of several protocols") == 2


def test_results_of_several_protocols_are_marked_across_rows_too(results: Path, tmp_path: Path) -> None:
    write_run(results, "other-seed", rows_of("table_03_tse_lora_4"), seed=1)
    text = table(results, tmp_path)
    [key] = re.findall(r"^\[\^(\d+)\]: Results of several protocols", text, re.MULTILINE)
    for system in ("Ground Truth", "Metis-TSE LoRA 4", "Metis-TSE LoRA 32"):
        assert f"[^{key}]" in of_system(text, system)[1][0]
    assert f"[^{key}]" in of_system(text, "Metis-TSE LoRA 4")[1][0]


def test_fewer_ids_are_another_protocol_but_other_test_sets_are_not(results: Path, tmp_path: Path) -> None:
    write_run(results, "emilia", rows_of(OURS, test_set="EmiliaMix-test"))
    assert "Results of several protocols" not in table(results, tmp_path / "a")
    write_run(results, "short", rows_of("nano")[:4])
    assert "Results of several protocols" in table(results, tmp_path / "b")


def test_the_paper_alone_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_tables(None, tmp_path, BENCHMARKS) == [tmp_path / "tables.html"]
    assert "the paper's numbers alone" in capsys.readouterr().err
    page = (tmp_path / "tables.html").read_text()
    benchmarks = read_benchmarks(BENCHMARKS)
    for benchmark in benchmarks:
        text = (tmp_path / f"{benchmark.name}.md").read_text()
        lines = [row for row in cells(text) if any(cell.split("[")[0] == "paper" for cell in row)]
        assert len(lines) == len(benchmark.rows)
        for row, line in zip(benchmark.rows, lines, strict=True):
            values = [row.metrics.get(name) for name in benchmark.metrics]
            printed = [
                format_number(v, 2) if not isinstance(v, dict) else f"{v['mean']:.2f} ± {v['ci95']:.2f}" for v in values
            ]
            assert [cell.split("[")[0] for cell in line[-len(printed) :]] == printed
            assert {row.test_set, row.system} <= {cell.split("[")[0] for cell in line}
        assert text.count("| ours") == sum(bool(row.ours) for row in benchmark.rows)
        assert f"Table {benchmark.table}: " in page
        found = [r for r in records(tmp_path / f"{benchmark.name}.csv") if r["kind"] == "paper"]
        assert len(found) == sum(len(row.metrics) for row in benchmark.rows)
    assert sum(len(benchmark.rows) for benchmark in benchmarks) == 122


def test_the_papers_inconsistencies_are_footnotes(tmp_path: Path) -> None:
    def footnote(table_number: int, system: str, cell: str) -> str:
        text = table(None, tmp_path, table_number)
        [key] = re.findall(
            rf"^\|[^|]*\|(?:[^|]*\|)? {re.escape(system)} .* {re.escape(cell)}\[\^(\d+)\]", text, re.MULTILINE
        )
        return str(re.search(rf"^\[\^{key}\]: (.*)$", text, re.MULTILINE)[1])

    assert footnote(1, "MaskGCT", "3.51") == "Table 11 prints 3.52."
    assert footnote(3, "WeSep", "3.93").startswith("Table 11 prints 3.39")
    assert footnote(3, "Metis-TSE LoRA 16", "4.06") == "The text says 4.46."
    assert footnote(4, "Metis-SE fine-tune", "4.76") == "Table 11 prints 4.77."
    assert footnote(8, "Metis-VC fine-tune, cfg=0.0", "3.82").startswith("Printed in bold")
    assert footnote(11, "WeSep", "3.39").startswith("Tables 3 and 6 print 3.93")
    assert "another sample from the same speaker" in table(None, tmp_path, 2)
    assert "call it QMOS" in table(None, tmp_path, 10)
    assert "the paper does not say which" in table(None, tmp_path, 5)


# --- ours ------------------------------------------------------------------------------------------------------------


def section(text: str) -> list[list[str]]:
    return cells(text[text.index("## Ours on ") :])


def test_all_our_results_are_listed_with_the_signs_of_the_test(results: Path, tmp_path: Path) -> None:
    header, *rows = section(table(results, tmp_path))
    assert header[:5] == ["system", "run", "n", "speakers", "WER % (whisper-large-v3) ↓"]
    assert header[5:7] == ["WER > 50%, % of utterances (whisper-large-v3) ↓", "SIM (wavlm-large) ↑"]
    assert header[7] == "DNSMOS SIG ↑", "what was said and by whom comes first"
    assert [(row[0], row[1].split("[")[0], *row[2:4]) for row in rows] == [
        ("input", "demo", "14", "7"), ("target", "demo", "14", "7"), (OURS, "demo", "14", "7")
    ]  # fmt: skip
    # Better for each of seven speakers: p = 2 / 2^7 in a family of one, controls are of none. Word errors are equal.
    assert [row[6].endswith("▲") for row in rows] == [False, False, True]
    assert not any("▲" in row[4] or "▼" in row[4] for row in rows)
    tests = {
        r["our_system"]: r
        for r in records(tmp_path / "table_03.csv")
        if r["kind"] == "ours" and r["metric"] == "DNSMOS_SIG"
    }
    assert (tests[OURS]["baseline"], tests[OURS]["baseline_difference"]) == ("input", "0.1")
    assert (tests[OURS]["p"], tests[OURS]["p_holm"]) == ("0.015625", "0.015625")
    assert (tests["target"]["p"], tests["target"]["p_holm"]) == ("0.015625", "")
    assert float(tests[OURS]["p_utterances"]) < 0.001
    assert tests["input"]["p"] == ""


def test_too_few_speakers_for_any_mark_is_said(results: Path, tmp_path: Path) -> None:
    assert "nothing can be marked" not in table(results, tmp_path / "a")
    write_run(results, "few", [row for name in ("input", "nano") for row in rows_of(name, test_set="few")[:8]])
    text = table(results, tmp_path / "b")
    few = text[text.index("## Ours on few") :]
    assert "With 4 speakers and 1 systems nothing can be marked ▲ or ▼" in few
    assert "No 95% interval: too few speakers (4; it takes 5)." in text


def test_the_default_set_up_can_mark_a_system(results: Path, tmp_path: Path) -> None:
    """Six speakers, two controls and one system: with the controls in its family, the least p was 0.094."""
    systems = {"input": 0.0, "target": 0.3, "resynthesis": 0.2, "nano": 0.1}
    write_run(results, "six", [row for name, more in systems.items() for row in rows_of(name, more, "six")[:12]])
    text = table(results, tmp_path)
    text = text[text.index("## Ours on six") :]
    signs = {row[0]: row[6][-1] for row in section(text)[1:]}
    assert signs == {"input": "]", "target": "]", "resynthesis": "]", "nano": "▲"}
    assert "Controls have no marks; metrics are not corrected for one another." in text


def test_what_only_these_voices_show_has_another_mark(results: Path, tmp_path: Path) -> None:
    write_run(
        results, "few", [row for name in ("input", "nano") for row in rows_of(name, 0.1 * (name == "nano"), "few")[:8]]
    )
    text = table(results, tmp_path)
    rows = section(text[text.index("## Ours on few") :])[1:]
    assert rows[1][6].split("[")[0].endswith(" △")
    assert "△ and ▽ where only the same test over utterances says so" in text
    assert r"$^{\vartriangle}$" in (tmp_path / "table_03.tex").read_text()
    assert '<span class="good">△</span>' in (tmp_path / "tables.html").read_text()


def test_another_baseline_can_be_chosen(results: Path, tmp_path: Path) -> None:
    write_tables(results, tmp_path, BENCHMARKS, baseline="target")
    rows = section((tmp_path / "table_03.md").read_text())[1:]
    assert [row[6][-1] for row in rows] == ["]", "]", "▼"], "input is a control"
    with pytest.raises(UserError, match="--baseline nano: no result"):
        write_tables(results, tmp_path, BENCHMARKS, baseline="nano")


def test_reasons_of_failures_are_listed(results: Path, tmp_path: Path) -> None:
    text = table(results, tmp_path)
    assert f"- n/a: {OURS}, no reference text: 1 × WER (whisper-large-v3)" in text


def test_runs_of_one_protocol_share_a_section_and_their_controls(results: Path, tmp_path: Path) -> None:
    write_run(results, "nano", rows_of("nano") + rows_of("target", 0.2) + rows_of("input", 0.01))
    text = table(results, tmp_path)
    assert text.count("## Ours on ") == 1
    # The same target stands once; an input that differs stands twice, with its run.
    assert [(row[0], row[1].split("[")[0]) for row in section(text)[1:]] == [
        ("input", "demo"), ("input", "nano"), ("target", "demo"), ("nano", "nano"), (OURS, "demo")
    ]  # fmt: skip


def test_results_of_a_task_are_listed_in_its_own_table_only(results: Path, tmp_path: Path) -> None:
    write_run(results, "tts", rows_of("nano", test_set="seedtts-en", task="tts"))
    write_tables(results, tmp_path, BENCHMARKS)
    listing = [path.name for path in sorted(tmp_path.glob("*.md")) if "## Ours on seedtts-en" in path.read_text()]
    assert listing == ["table_01.md"]


def test_an_omni_system_stands_in_the_tables_of_its_tasks(results: Path, tmp_path: Path) -> None:
    rows, settings = rows_of("table_06_omni_finetune", task="omni"), {"tse": {"text_guided": False}}
    write_run(results, "omni", rows, systems={"table_06_omni_finetune": {"settings": settings}})
    text = table(results, tmp_path, 6)
    assert len(of_system(text, "Metis-Omni fine-tune")) == len(of_system(text, "Ground Truth")) == 3
    rows = [row for row in cells((tmp_path / "table_11.md").read_text()) if row[1:3] == ["LibriMix test", "Metis-Omni"]]
    assert len(rows) == 3


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_same_results_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    for name in "ab":
        write_tables(results, tmp_path / name, BENCHMARKS)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab")
    assert first == second
    assert len(first) == 3 * 11 + 1


def test_golden_files(results: Path, tmp_path: Path) -> None:
    """To accept what is written now: METIS_WRITE_GOLDEN=1, then read the difference."""
    write_run(results, "offline", rows_of("table_03_tse_finetune", metrics=OFFLINE), metrics={"protocol": "offline"})
    chosen = tmp_path / "benchmarks"
    chosen.mkdir()
    for name in ("table_03", "table_09"):
        shutil.copy(BENCHMARKS / f"{name}.yaml", chosen)
    write_tables(results, tmp_path / "out", chosen)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    if os.environ.get("METIS_WRITE_GOLDEN"):
        shutil.copytree(tmp_path / "out", GOLDEN, dirs_exist_ok=True)
    assert names == sorted(path.name for path in GOLDEN.iterdir())
    for name in names:
        assert (tmp_path / "out" / name).read_text() == (GOLDEN / name).read_text(), name


def test_names_of_strangers_are_text(results: Path, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|`_&%${"
    write_run(results, "bad", rows_of(name))
    text = table(results, tmp_path)
    page, tex = (tmp_path / "tables.html").read_text(), (tmp_path / "table_03.tex").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "script-src 'none'" in page
    assert r"\<script>alert(1)\</script>\|\`_&%\${" in text
    assert r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{}\textbar{}`\_\&\%\$\{" in tex


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t=", "\n+", "＝", "\u200b="])
def test_a_name_is_no_formula_in_a_spreadsheet(start: str, results: Path, tmp_path: Path) -> None:
    write_run(results, "bad", rows_of(f"{start}cmd|calc!A1"))
    table(results, tmp_path)
    text = (tmp_path / "table_03.csv").read_text()
    names = {row["our_system"] for row in records(tmp_path / "table_03.csv")}
    assert any(name.startswith("'") and name.endswith("cmd|calc!A1") for name in names)
    assert not any(re.match(r"\s*[=+@-](?!\d)", field) for row in csv.reader(text.splitlines()) for field in row)
    differences = {row["difference"] for row in records(tmp_path / "table_03.csv")}
    assert "-2.82" in {f"{float(each):.2f}" for each in differences if each}, "numbers stay numbers"


def test_missing_values_are_empty_in_csv(results: Path, tmp_path: Path) -> None:
    table(results, tmp_path)
    for row in records(tmp_path / "table_03.csv"):
        for name in ("paper", "ours", "ci95_low", "ci95_high", "difference", "n", "n_failed", "p", "p_holm"):
            assert row[name] == "" or float(row[name]) is not None
    assert "–" not in (tmp_path / "table_03.csv").read_text().partition("notes")[0]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("[x](javascript:alert)", r"\[x\](javascript:alert)"),
        ("![x](https://evil.example/a.png)", r"!\[x\](https\://evil.example/a.png)"),
        (r"\[x](a)", r"\\\[x\](a)"),
        ("see http://evil.example or www.evil.example", r"see http\://evil.example or www\.evil.example"),
        ("<https://evil.example>", r"\<https\://evil.example>"),
        ("me@evil.example", r"me\@evil.example"),
        ("[^1]", r"\[^1\]"),
        (r"$\href{a}{b}$", r"\$\\href{a}{b}\$"),
        ("a\x00b\u202ec", "abc"),
    ],
)
def test_a_name_is_no_link_in_markdown(name: str, written: str, results: Path, tmp_path: Path) -> None:
    write_run(results, "bad", rows_of(name))
    lines = table(results, tmp_path).splitlines()
    assert any(line.startswith(f"| {written} ") for line in lines)
    for path in tmp_path.glob("table*"):
        assert "\x00" not in path.read_text() and "\u202e" not in path.read_text()


def test_a_reason_with_several_numbers_is_one_line(results: Path, tmp_path: Path) -> None:
    rows = rows_of("nano")
    for index, row in enumerate(rows[:3]):
        for name in ("NISQA", "DNSMOS_SIG") if index else ("NISQA",):
            row["metrics"][name] = None
            row["failed"].append(name)
            row["error"][name] = f"signal and reference differ in length by 0.{index}4 s"
    write_run(results, "bad", rows)
    lines = [line for line in table(results, tmp_path).splitlines() if line.startswith("- Failed: nano")]
    assert lines == ["- Failed: nano, signal and reference differ in length by … s: 2 × DNSMOS SIG; 3 × NISQA"]


def test_a_reason_is_no_markup_either(results: Path, tmp_path: Path) -> None:
    rows = rows_of("nano")
    rows[1]["metrics"]["NISQA"], rows[1]["failed"] = None, ["NISQA"]
    rows[1]["error"]["NISQA"] = "=x [a](https://b) <b>\\input{c}"
    write_run(results, "bad", rows)
    text = table(results, tmp_path)
    assert r"- Failed: nano, =x \[a\](https\://b) \<b>\\input{c}: 1 × NISQA" in text
    assert r"\textless{}b\textgreater{}\textbackslash{}input\{c\}" in (tmp_path / "table_03.tex").read_text()
    assert "&lt;b&gt;" in (tmp_path / "tables.html").read_text()


def test_results_of_an_earlier_version_are_read_and_their_gaps_named(results: Path, tmp_path: Path) -> None:
    """Their rows have no word errors where nothing was heard, and do not say how many words there were."""
    rows = rows_of("old", 0.1)
    for row in rows[2:4]:
        row["metrics"] = dict.fromkeys(row["metrics"])
        row["error"], row["failed"] = dict.fromkeys(row["metrics"], "missing"), list(row["metrics"])
        row["wer"] = row["hypothesis"] = None
    write_run(results, "old", rows)
    text = table(results, tmp_path)
    assert "- Failed: old, missing: 2 × all metrics" in text
    line = "- WER (whisper-large-v3) of old leave failed outputs out: its rows are of an earlier version; run evaluate"
    assert line in text
    header, *lines = section(text)
    assert header[4] == "WER % (whisper-large-v3) ↓ (11 of 13)", "all are compared on what all have"
    assert len({row[4].split(" (")[0] for row in lines}) == 1


def test_several_seeds_are_as_many_utterances_as_one(results: Path, tmp_path: Path) -> None:
    rows = [row | {"seed": seed} for seed in (0, 1, 2) for row in rows_of("table_03_tse_lora_4", 0.1 * seed)]
    write_run(results, "seeds", rows)
    _, ours, _ = of_system(table(results, tmp_path), "Metis-TSE LoRA 4")
    assert ours[1] == "14"
    found = {row["n"] for row in records(tmp_path / "table_03.csv") if row["our_system"] == "table_03_tse_lora_4"}
    assert found == {"14", "13"}, "13 have a transcript"


def test_a_limited_run_says_of_how_many(results: Path, tmp_path: Path) -> None:
    limited = {"sizes": {"librimix": 6_000}}
    write_run(results, "short", rows_of("table_03_tse_lora_4")[:8], **limited)
    text = table(results, tmp_path)
    _, ours, difference = of_system(text, "Metis-TSE LoRA 4")
    assert ours[1] == "8 of 6,000"
    keys = dict(re.findall(r"^\[\^(\d+)\]: (.*)$", text, re.MULTILINE))
    assert "Run short is limited to 8 of 6,000 utterances: not comparable with the paper's." in [
        keys[key] for key in re.findall(r"\[\^(\d+)\]", difference[2])
    ]
    assert "- table_03_tse_lora_4 is limited to 8 of 6,000 utterances (--limit)" in text


def test_speed_without_the_machine_is_in_no_table(results: Path, tmp_path: Path) -> None:
    rows = rows_of("fast")
    for row in rows:
        row["metrics"]["RTF"] = 0.1
    write_run(results, "fast", rows)
    assert "RTF" not in table(results, tmp_path).partition("## Ours on ")[2]


def test_latex_captions_say_whose_numbers_they_are(results: Path, tmp_path: Path) -> None:
    table(results, tmp_path)
    captions = re.findall(r"\\caption\{(.*)\}", (tmp_path / "table_03.tex").read_text())
    assert captions[0].startswith("Table 3 of the Metis paper, ")
    assert captions[1].endswith(": results of this project, none of the Metis paper.")


def test_an_unfinished_run_is_left_out_and_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(results, "half", rows_of("nano"))
    (folder / "summary.json").unlink()
    assert {result.run for result in find_results(results)} == {"demo"}
    assert "half is left out: the run is not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"), [("protocol.json", "{"), ("utterances.jsonl", '{"id": "a"}\n'), ("protocol.json", "[]")]
)
def test_results_of_another_form_are_named(results: Path, name: str, content: str) -> None:
    (results / "demo" / name).write_text(content)
    with pytest.raises(UserError, match="demo: not the results of a run"):
        find_results(results)


def test_no_folder_of_results_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of results .*none"):
        write_tables(tmp_path / "none", tmp_path, BENCHMARKS)


def test_no_benchmarks_are_a_users_mistake(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--benchmarks"):
        write_tables(results, tmp_path, tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("table: 99\nrows: []\n", "missing"),
        ("rows: [{system: a}]\ntable: 1\ntitle: t\nsource: s\nmeasured_with: m\n", "a row needs"),
        (
            "rows: [{test_set: t, system: a, metrics: {WER: 1}}]\nnotes: [{system: b, text: x}]\n"
            "table: 1\ntitle: t\nsource: s\nmeasured_with: m\n",
            "a note is on nothing",
        ),
        (
            "rows: []\ntable: 1\ntitle: t\nsource: s\nmeasured_with: m\nours: {task: tse, word_errors: x}\n",
            "word_errors",
        ),
    ],
)
def test_a_malformed_benchmark_is_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "table_99.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"table_99\.yaml is not a table of the paper: .*{why}"):
        read_benchmarks(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("table: 1\ntable: 2\n", "line 2: a key that its mapping has already"),
        ("a: &a [1, 2]\nb: &b [" + "*a, " * 500 + "]\nc: [" + "*b, " * 500 + "]\n", "stands for more than 100,000"),
        ("[" * 60, "nested deeper than 50 levels"),
        ("rows: [\n", "not YAML"),
    ],
)
def test_a_benchmark_is_read_in_bounded_time(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "table_99.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"table_99\.yaml: .*{why}"):
        read_benchmarks(tmp_path)


# --- the paper's data ------------------------------------------------------------------------------------------------


def test_every_table_of_the_paper_is_there() -> None:
    benchmarks = read_benchmarks(BENCHMARKS)
    counts = {benchmark.table: len(benchmark.rows) for benchmark in benchmarks}
    assert counts == {1: 22, 2: 7, 3: 18, 4: 23, 5: 4, 6: 6, 7: 5, 8: 4, 9: 5, 10: 4, 11: 24}
    assert all(benchmark.name == f"table_{benchmark.table:02d}" for benchmark in benchmarks)
    assert [benchmark.table for benchmark in benchmarks if benchmark.ours is None] == [9, 10]
    for benchmark in benchmarks:
        assert benchmark.ours is None or set(benchmark.metrics) == set(benchmark.ours.columns)


def test_benchmark_values_are_the_printed_ones() -> None:
    rows = {benchmark.table: benchmark.rows for benchmark in read_benchmarks(BENCHMARKS)}
    assert rows[3][7].system == "Metis-TSE LoRA 32"
    assert rows[3][7].metrics == {"WER": 9.65, "SIG": 3.66, "BAK": 4.02, "OVRL": 3.35, "NISQA": 4.38, "SIM": 0.75}
    assert rows[4][2].metrics["NISQA"] is None
    assert rows[9][0].metrics["QMOS"] == {"mean": 4.32, "ci95": 0.28}


def test_every_experiment_has_its_rows() -> None:
    """A run is named after its experiment, and the benchmark file says which row of the paper it stands for."""
    known = {name for b in read_benchmarks(BENCHMARKS) for row in b.rows for name in row.result_names}
    experiments = [path for path in (BENCHMARKS.parents[1] / "experiments").glob("table_*/*.yaml")]
    assert experiments
    for path in experiments:
        assert f"{path.parent.name}_{path.stem}" in known, path


def test_grid_escapes_and_pads() -> None:
    assert grid(["a"], [["x|y"]]).splitlines() == ["| a    |", "| :--- |", "| x\\|y |"]


def test_latex_rows_fill_their_columns(results: Path, tmp_path: Path) -> None:
    table(results, tmp_path)
    text = (tmp_path / "table_03.tex").read_text()
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 3
        assert {row.count(" & ") + 1 for row in rows} == {len(columns)}
    assert text.count(r"\begin{tabular}") == 2
    assert "$-$2.82" in text and " -2.82" not in text


def test_latex_escapes() -> None:
    assert escape_latex("a\\b\n~^#") == r"a\textbackslash{}b \textasciitilde{}\textasciicircum{}\#"


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (-0.001, "0.00"), (1.005, "1.00"), (0.0, "0.00")])
def test_number(value: float | None, text: str) -> None:
    assert format_number(value, 2) == text
    assert json.dumps(format_number(-0.004, 2, signed=True)) == '"0.00"'


@pytest.mark.parametrize(
    ("table", "theirs", "ours"),
    [
        ("table_01", "SeedTTS test-zh", "seedtts-zh"),
        ("table_02", "VCTK", "vctk"),
        ("table_03", "LibriMix test", "librimix-test"),
        ("table_03", "EmiliaMix test", "emiliamix"),
        ("table_04", "DNS2020 with reverb", "with_reverb"),
        ("table_04", "DNS2020 no reverb", "no_reverb"),
        ("table_04", "DNS2020 Real Recording", "real_recordings"),
        ("table_05", "LRS3", "lrs3-test"),
        ("table_07", "LibriSpeech test-clean", "librispeech-test-clean"),
        ("table_08", "SeedTTS-VC-en", "seedtts-vc-en"),
    ],
)
def test_the_readers_test_sets_fill_the_papers_rows(table: str, theirs: str, ours: str) -> None:
    (benchmark,) = (each for each in read_benchmarks(REPOSITORY / "evaluation/benchmarks") if each.name == table)
    assert theirs in {row.test_set for row in benchmark.rows}
    assert benchmark.ours.is_test_set(theirs, ours)


def test_chinese_words_are_counted_by_another_recogniser() -> None:
    tables = {each.name: each for each in read_benchmarks(REPOSITORY / "evaluation/benchmarks")}
    for table, chinese in (("table_01", "SeedTTS test-zh"), ("table_08", "SeedTTS-VC-zh"), ("table_11", "SeedTTS-zh")):
        column = tables[table].ours.columns["WER"]
        assert column.at(chinese).column == "WER_paraformer-zh"
        assert column.at("SeedTTS test-en").column == "WER_whisper-large-v3"
        assert chinese in {row.test_set for row in tables[table].rows}
