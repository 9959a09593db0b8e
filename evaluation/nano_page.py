"""Writes tables and one page with players out of what `nano_results.py` has stored: of the same files the same bytes.

    python evaluation/nano_page.py [--results evaluation/nano]

That folder holds rows, summary and protocol of each run, and `clips/RUN/ID/NAME.opus` with its picture in
`NAME.webp`. From them come `tables/table_NN.md` and `index.html`, which holds sound and pictures as they are stored.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.document import plain, render
from metis_lightning.evaluate.results.comparison import CONTROLS, ComparedUtterance, Comparison, read_comparison
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.evaluate.results.runs import RUN_SUMMARY, Result, read_results
from metis_lightning.evaluate.tables.benchmarks import ResultsSpec
from metis_lightning.evaluate.tables.layout import NoteKeys, format_number
from metis_lightning.evaluate.tables.main import write_tables
from metis_lightning.evaluate.tables.our_results import group_results, result_sections
from metis_lightning.files import atomic_path
from metis_lightning.task_table import TASKS

FOLDER = Path(__file__).resolve().parent
OUT, CLIPS, TABLES, PAGE = Path("evaluation/nano"), "clips", "tables", "index.html"
# Systems and inputs: `blind` is lip to speech that sees nothing.
NANO, BLIND, PROMPT, MOUTH = "nano", "blind", "prompt", "mouth"
# Tables of the paper that nano may have rows for.
NUMBERS = (1, 2, 3, 4, 5, 6, 8)
# By folders of runs, in the order of the page.
TITLES = {name: task.title for name, task in TASKS.items()} | {
    "omni": "Omni: one model, asked for each task",
    "omni_text": "Omni, told what the wanted voice says",
}
# Columns on the page, by the beginnings of their titles; the tables have all.
COLUMNS = ("WER % (", "DNSMOS OVRL", "STOI", "SIM")
MAX_BYTES = 3_000_000
# How the names of test sets begin whose voices were never trained on; of drawn mouths there are no others.
DRAWN = "mouths-"
UNSEEN = ("test-unseen", DRAWN)
# Places among the utterances of a test set, from nano's least word errors to its most.
QUARTILES = {"the median": 0.5, "the lower quartile": 0.25, "the upper quartile": 0.75}
# Clips as they are shown, and what they are.
LABELS = {
    "input": "Input",
    MOUTH: "Input: the mouth, drawn",
    PROMPT: "Prompt: the wanted voice",
    NANO: "Nano",
    BLIND: "Control: trained and tested without a mouth",
    "target": "Reference: the recording",
    "resynthesis": "Control: the reference through the codec",
    "oracle": "Control: stage 2 from the reference's own tokens",
}


def examples(comparison: Comparison) -> list[tuple[ComparedUtterance, str]]:
    """Return utterances of voices never trained on, and where each stands among nano's word errors.

    They are at the quartiles of a test set; where there are several test sets, at the median of each.
    """
    metric, system = comparison.sort_order(None)
    best_first = comparison.worst_first(metric, system)[::-1]
    parts: dict[str, list[ComparedUtterance]] = {}
    for utterance in comparison.utterances:
        parts.setdefault(utterance.test_set, [])
    for utterance in best_first:
        parts[utterance.test_set].append(utterance)
    unseen = [part for test_set, part in parts.items() if test_set.startswith(UNSEEN)]
    chosen = []
    for part in unseen:
        places: dict[int, str] = {}
        for name, share in list(QUARTILES.items())[: 1 if len(unseen) > 1 else None]:
            places.setdefault(round(share * (len(part) - 1)), name)
        chosen += [(part[index], name) for index, name in sorted(places.items())]
    return chosen


def stored_runs(results: Path) -> list[str]:
    """Return the names of the runs of a folder, in the page's order. A UserError if they are of several weights."""
    names = [name for name in TITLES if (results / name / RUN_SUMMARY).is_file()]
    if not names:
        raise UserError(f"{results}: no finished run; run evaluation/nano_results.py first")
    if len({_weights(read_results(results / name)) for name in names}) > 1:
        raise UserError(f"{results}: the runs are of different weights; run evaluation/nano_results.py")
    return names


def _weights(results: list[Result]) -> str:
    return next(str(result.identity.get("bundle")) for result in results if result.system == NANO)


def tables(results: Path) -> dict[str, str]:
    """Return the tables of the paper that nano has rows for, as Markdown by file name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in NUMBERS:
            benchmark = f"table_{number:02}.yaml"
            text = (FOLDER / "benchmarks" / benchmark).read_text(encoding="utf-8")
            # Table 8 has another test set of table 2's task: results of nano's are listed in both.
            (folder / benchmark).write_text(text.replace("  lists_all: false\n", ""), encoding="utf-8")
        paths = write_tables(results, folder / TABLES, folder)
        return {path.name: path.read_text(encoding="utf-8") for path in paths if path.suffix == ".md"}


def page(results: Path, table_names: Iterable[str]) -> str:
    """Return the page. A UserError if a clip is not there, or the page would be larger than 3 MB."""
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.filters["plain"] = plain
    names = stored_runs(results)
    sections = environment.get_template("nano_page.html").render(
        runs=[_run(results, name) for name in names],
        weights=_weights(read_results(results / names[0]))[:12],
        tables={f"table {int(name[6:8])}": f"{TABLES}/{name}" for name in table_names},
    )
    text = render("play_list", "Nano, heard and seen", sections=Markup(sections), shown=1, total=1)
    if len(text.encode()) > MAX_BYTES:
        raise UserError(f"the page would have {len(text.encode()) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g}")
    return text


def _run(results: Path, name: str) -> dict[str, Any]:
    task = "omni" if name.startswith("omni") else name
    comparison = read_comparison(results / name, task, None)
    shown = []
    for utterance, place in examples(comparison):
        folder = results / CLIPS / name / utterance.id
        clips = [_clip(comparison, utterance, label, folder) for label in LABELS if _is_shown(utterance, label, folder)]
        shown.append({"utterance": utterance, "place": place, "clips": clips})
    run = {"name": name, "task": task, "title": TITLES[name], "tables": _numbers(results / name), "examples": shown}
    return run | {"is_drawn": all(utterance.test_set.startswith(DRAWN) for utterance in comparison.utterances)}


def _numbers(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the numbers of a run on each test set: some columns of its table, voices never trained on first."""
    results = read_results(folder)
    ours = ResultsSpec(results[0].task, first=CONTROLS)
    baseline = "input" if any(result.system == "input" for result in results) else "resynthesis"
    groups = group_results(results, ours, baseline)
    groups.sort(key=lambda group: not group.results[0].test_set.startswith(UNSEEN))
    for group, section in zip(groups, result_sections(groups, NoteKeys()), strict=True):
        first = group.results[0]
        header = section.header[len(section.lines[0].labels) :]
        chosen = [index for wanted in COLUMNS for index, cell in enumerate(header) if cell.text.startswith(wanted)]
        yield {
            "test_set": first.test_set,
            "protocol": first.protocol.mark,
            "baseline": baseline,
            "header": [header[index] for index in chosen],
            "lines": [(line.labels[0], line.labels[2], [line.cells[i] for i in chosen]) for line in section.lines],
            "remarks": section.remarks,
        }


def _is_shown(utterance: ComparedUtterance, name: str, folder: Path) -> bool:
    # A control without a file failed, and says so; prompts and mouths have no row.
    return name in utterance.entries or (name in (PROMPT, MOUTH) and (folder / f"{name}.webp").is_file())


def _clip(comparison: Comparison, utterance: ComparedUtterance, name: str, folder: Path) -> dict[str, Any]:
    """Return what is shown of a system's clip: address of sound and picture, scores, and what was heard."""
    media = {}
    for kind, suffix in (("audio/ogg", "opus"), ("image/webp", "webp")):
        file = folder / f"{name}.{suffix}"
        data = base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""
        media[suffix] = Markup(f"data:{kind};base64,{data}") if data else None
    entry = utterance.entries.get(name)
    # A mouth is silent.
    if not all(media.values()) and name != MOUTH and (entry is None or entry.row.n_samples):
        raise UserError(f"{folder / name}: the clip is not there; run evaluation/nano_results.py")
    row = entry and entry.row
    return {
        "name": name,
        "label": LABELS[name],
        **media,
        "scores": _scores(comparison, row) if row else [],
        "heard": _heard(row) if row else [],
        "remarks": _remarks(row) if row else [],
    }


def _scores(comparison: Comparison, row: ResultRow) -> list[str]:
    columns = [summary.column for summary in comparison.metrics.values() if row.value(summary.column.name) is not None]
    scores = []
    for column in (each for wanted in COLUMNS for each in columns if each.title.startswith(wanted)):
        number = format_number(column.scale * (row.value(column.name) or 0.0), 0 if column.unit else 2)
        scores.append(f"{column.quantity.replace('_', ' ')} {number}{column.unit}")
    return scores


def _heard(row: ResultRow) -> list[tuple[str, bool]]:
    """Return the words that the recogniser wrote, as they were compared, and whether each is in the text."""
    if row.wer is None or row.wer.compared is None:
        return [(word, True) for word in (row.hypothesis or "").split()]
    text, heard = (each.split() for each in row.wer.compared)
    blocks = SequenceMatcher(None, text, heard, autojunk=False).get_matching_blocks()
    right = {index for block in blocks for index in range(block.b, block.b + block.size)}
    return [(word, index in right) for index, word in enumerate(heard)]


def _remarks(row: ResultRow) -> list[str]:
    """Return why scores are missing by the system's fault, or are not what they seem, as of a transcript that loops."""
    reasons = [why for name, why in row.error.items() if name in row.failed or row.value(name) is not None]
    if row.wer is not None and not row.hypothesis:
        reasons.append("no words were heard")
    return list(dict.fromkeys(reasons))


def write(results: Path) -> Mapping[Path, int]:
    """Write tables and page into the folder of the results; return the sizes of all in bytes."""
    made = tables(results)
    files = {results / TABLES / name: text for name, text in made.items()} | {results / PAGE: page(results, made)}
    shutil.rmtree(results / TABLES, ignore_errors=True)
    for path, text in files.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return {path: path.stat().st_size for path in files}


def main() -> int:
    """Write tables and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=OUT, help="folder of the stored results")
    try:
        for path, size in write(parser.parse_args().results).items():
            print(f"{path}: {size / 1000:.0f} kB")
    except UserError as error:
        print(f"nano_page: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
