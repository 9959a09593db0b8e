"""The curve of quality against cost: nano's results with fewer steps and other samplers, beside those as released.

    python experiments/speed/curve.py [--limit 6] [--out build/speed] [--docs docs]

Each variant of the sampler answers the first items of `test-unseen` for TSE, SE and VC, and the offline protocol scores
them. A run that was stopped goes on, one with a larger `--limit` adds items; another bundle needs another `--out`. Then
`OUT/curve.md` has a table and `OUT/curve.svg` a figure: each metric's difference from the released settings on the same
items with its paired 95% interval, against the arithmetic at the paper's sizes; and which variants the rule takes as
presets: `balanced` is the one with the most steps at up to 0.64 of the released arithmetic of which no metric of any
task is worse beyond its interval, `fast` the same at up to 0.38, or if there is none the one with the fewest metrics
that are worse. With `--docs` table and figure go there, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.intervals import PairedDifference, compare_rows
from metis_lightning.evaluate.results.rows import ROWS, ResultRow, read_rows
from metis_lightning.evaluate.results.summary import column_by_name
from metis_lightning.evaluate.run.outputs import Output, Run
from metis_lightning.evaluate.run.plan import Plan
from metis_lightning.evaluate.run.shard import run_share
from metis_lightning.evaluate.run.systems import System
from metis_lightning.evaluate.run.test_sets import chosen_test_sets
from metis_lightning.files import atomic_path, sha256_of
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.options import Precision
from metis_lightning.pipeline import Metis, Settings
from metis_lightning.task_table import TASKS
from metis_lightning.types import TestItem, Trial
from metis_lightning.weights.bundle import BUNDLE_INDEX, bundle_folder, read_index

TEST_SETS = {"tse": "test-unseen", "se": "test-unseen-se", "vc": "test-unseen-vc"}
RELEASED = "released"
# Quantities of the table.
QUANTITIES = ("WER", "SIM", "SIM_target", "SIM_prompt", "DNSMOS_OVRL")
# Between these the page of the docs has the table.
BEGIN, END = "<!-- curve -->", "<!-- end of the curve -->"
# Of the released steps' arithmetic: 0.25 and 0.15 of the released way's time, of which the exact way takes 0.39.
MOST = {"balanced": 0.64, "fast": 0.38}


@dataclass(frozen=True)
class Variant:
    """Settings as released but for some: a share of stage 1's steps, those of stage 2's layers, and the samplers.

    beside: the variant that it is compared with, of the same steps if it is a sampler.
    """

    name: str
    stage1: float = 1.0
    stage2: tuple[int, ...] = (40, 16, 1)
    both: Mapping[str, float | bool] | None = None
    precision: Precision = "float32"
    beside: str = RELEASED

    def settings(self, released: Settings) -> Settings:
        """Return the settings of a task."""
        both = dict(self.both or {})
        stage1 = replace(released.stage1, num_steps=max(1, round(self.stage1 * released.stage1.num_steps)), **both)
        return replace(released, stage1=stage1, stage2=replace(released.stage2, **both), stage2_steps=self.stage2)


FEW, FEW_NAME = {"stage1": 0.5, "stage2": (10, 4, 1)}, "half, 10 4 1"
VARIANTS = (
    Variant(RELEASED),
    Variant("layers 20 8 1", stage2=(20, 8, 1)),
    Variant(FEW_NAME, **FEW),
    Variant("quarter, 5 2 1", 0.25, (5, 2, 1)),
    Variant("half, 20 8 1", 0.5, (20, 8, 1)),
    Variant("layers 10 4 1", stage2=(10, 4, 1)),
    Variant("layers 20 16 1", stage2=(20, 16, 1)),
    Variant("layers 40 8 1", stage2=(40, 8, 1)),
    Variant("stage 1 half", 0.5),
    Variant("int8", precision="int8"),
    Variant("few, remasks", both={"remasks": True}, **FEW, beside=FEW_NAME),
)


def main() -> None:
    """Make what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundle", default="nano", help="the weights")
    parser.add_argument("--limit", type=int, default=6, help="items of each test set")
    parser.add_argument("--tasks", nargs="+", choices=TEST_SETS, default=list(TEST_SETS))
    parser.add_argument("--variants", nargs="+", default=[variant.name for variant in VARIANTS], help="names of them")
    parser.add_argument("--out", type=Path, default=Path("build/speed"), help="folder of rows, audio, table and figure")
    parser.add_argument("--docs", type=Path, help="folder whose speed.md gets the table, too, and the figure beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    check_weights(given.out, given.bundle)
    for task in given.tasks:
        make_rows(task, given.bundle, [v for v in VARIANTS if v.name in given.variants], given.limit, given.out / task)
    by_task = {task: read_rows(given.out / task) for task in given.tasks}
    text, figure = "\n".join([*table(by_task), *choices(by_task)]) + "\n", drawing(by_task)
    write(given.out / "curve.md", text)
    write(given.out / "curve.svg", figure)
    if given.docs:
        page = given.docs / "speed.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        write(page, f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
        write(given.docs / "speed_curve.svg", figure)
    print(text)


def write(path: Path, content: str) -> None:
    """Write a file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def check_weights(out: Path, bundle: str) -> None:
    """Note of which weights the folder's rows are. A `UserError` if they are of others."""
    digest, note = sha256_of(bundle_folder(bundle) / BUNDLE_INDEX), out / "weights"
    if note.is_file() and note.read_text() != digest:
        raise UserError(f"{out} has rows of other weights; give another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(digest)


def make_rows(task: str, bundle: str, variants: Sequence[Variant], limit: int, folder: Path) -> None:
    """Append the rows that a task's folder lacks."""
    options = EvaluateOptions(task=task, test_sets=(TEST_SETS[task],), limit=limit)
    loaded: dict[str, Metis] = {}
    systems = [System(v.name, {}, loader(loaded, bundle, task, v), is_seeded=True) for v in variants]
    plan = Plan(options, chosen_test_sets(options)[0], systems, [])
    folder.mkdir(parents=True, exist_ok=True)
    with ScoringPool(SuiteOptions(task=task), 1) as pool:
        run_share(plan, folder / ROWS, pool, 0, 1)


def loader(loaded: dict[str, Metis], bundle: str, task: str, variant: Variant) -> Callable[[], Run]:
    """Return what loads a variant; those of one precision share a pipeline, which the first of them loads."""

    def load() -> Run:
        if variant.precision not in loaded:
            loaded[variant.precision] = Metis.from_pretrained(bundle, task, precision=variant.precision)
        metis = loaded[variant.precision]
        settings = variant.settings(TASKS[task].settings)

        def run(trial: Trial, item: TestItem, seed: int) -> Output:
            prompt = None if task == "se" else item.signal("enrollment")
            request = metis.request(task, prompt, item.signal("mixture"))
            speech = metis.generate([request], seed, settings)[0]
            passes = 0 if speech.timing is None else sum(speech.timing.forwards.values())
            return Output(speech.wave, steps=passes)

        return run

    return load


def arithmetic(settings: Settings, task: str) -> float:
    """Return the products of both stages at the paper's sizes, up to a factor, for a prompt as long as the result."""
    parts = {name: part["config"] for name, part in read_index(bundle_folder("paper"))["parts"].items()}
    prompt = 0 if task == "se" else 1

    def of(part: str, steps: int, scale: float) -> float:
        # The unguided branch has the result's frames alone; without a prompt both branches are one.
        size = parts[part]["num_layers"] * parts[part]["hidden_size"] ** 2
        return float(size * steps * (1 + prompt + (prompt if scale else 0)))

    first, *others = settings.layer_steps(parts["s2a_full"]["num_quantizers"])
    total = of("stage1", settings.stage1.num_steps, settings.stage1.guidance_scale)
    total += of("s2a_1layer", first, settings.first_layer_guidance)
    return total + sum(of("s2a_full", steps, settings.stage2.guidance_scale) for steps in others)


def cost(variant: Variant, task: str) -> float:
    """Return a variant's arithmetic as a share of the released settings'."""
    released = TASKS[task].settings
    return arithmetic(variant.settings(released), task) / arithmetic(released, task)


def differences(rows: Sequence[ResultRow]) -> dict[str, dict[str, PairedDifference]]:
    """Return by variant and column how a task's rows differ on the same items from those that it is compared with."""
    columns = [name for name in rows[0].metrics if column_by_name(name).quantity.removesuffix("_asr") in QUANTITIES]
    found: dict[str, dict[str, PairedDifference]] = {}
    for variant in VARIANTS[1:]:
        baseline = [row for row in rows if row.system == variant.beside]
        if baseline and (own := [row for row in rows if row.system == variant.name]):
            found[variant.name] = {name: compare_rows(own, baseline, column_by_name(name)) for name in columns}
    return found


def is_worse(name: str, difference: PairedDifference) -> bool:
    """Return whether a metric is worse beyond its paired interval over utterances."""
    low, high = difference.utterances_ci95_low, difference.utterances_ci95_high
    if low is None or high is None:
        return False
    return high < 0 if column_by_name(name).higher_is_better else low > 0


def table(by_task: Mapping[str, Sequence[ResultRow]]) -> list[str]:
    """Return a table in Markdown for each task."""
    lines: list[str] = []
    for task, rows in by_task.items():
        found = differences(rows)
        if not found:
            continue
        columns = list(next(iter(found.values())))
        count = len({row.id for row in rows if row.system == RELEASED})
        about = (
            f"{count} items; differences with intervals, of samplers from {FEW_NAME!r}; bold is worse beyond its own"
        )
        lines += ["", f"**{TASKS[task].title}**, {about}", ""]
        heads = [column_by_name(name).title for name in columns]
        lines += [f"| | cost | passes | {' | '.join(heads)} |", "|" + "---|" * (3 + len(columns))]
        for variant in VARIANTS:
            own = [row for row in rows if row.system == variant.name]
            if not own:
                continue
            cells = [cell(name, own, found.get(variant.name, {}).get(name)) for name in columns]
            passes = sum(row.steps or 0 for row in own) / len(own)
            lines.append(f"| {variant.name} | {cost(variant, task):.2f} | {passes:.0f} | {' | '.join(cells)} |")
    return lines[1:]


def choices(by_task: Mapping[str, Sequence[ResultRow]]) -> list[str]:
    """Return which variants the rule takes as presets, of those that differ in steps alone and that all tasks have."""
    found = {task: differences(rows) for task, rows in by_task.items()}
    # (metrics that are worse, cost less what it may be, name) of each.
    ranked: dict[str, list[tuple[int, float, str]]] = {preset: [] for preset in MOST}
    for variant in VARIANTS[1:]:
        if variant.both or variant.precision != "float32" or not all(variant.name in each for each in found.values()):
            continue
        share = max(cost(variant, task) for task in by_task)
        worse = sum(is_worse(*each) for of_task in found.values() for each in of_task[variant.name].items())
        for preset, most in MOST.items():
            if share <= most and not (preset == "balanced" and worse):
                ranked[preset].append((worse, most - share, variant.name))
    return ["", *(f"{preset}: {min(each)[2]}, {min(each)[0]} metrics worse" for preset, each in ranked.items() if each)]


def cell(name: str, rows: Sequence[ResultRow], difference: PairedDifference | None) -> str:
    """Return a mean as released, or the difference from it with its interval."""
    scale, sign = (100, "") if column_by_name(name).unit == "%" else (1, "")
    if difference is None or difference.mean is None:
        values = [value for row in rows if (value := row.metrics.get(name)) is not None]
        return f"{scale * sum(values) / len(values):.3g}{sign}" if values else "–"
    half = ((difference.utterances_ci95_high or 0) - (difference.utterances_ci95_low or 0)) / 2
    text = f"{scale * difference.mean:+.2g} ± {scale * half:.2g}"
    return f"**{text}**" if is_worse(name, difference) else text


def drawing(by_task: Mapping[str, Sequence[ResultRow]]) -> str:
    """Return the figure as SVG: each metric's difference against cost, a panel for each task and metric."""
    width, height, gap = 230, 150, 46
    panels: list[str] = []
    most = 0
    for down, (task, rows) in enumerate(by_task.items()):
        found = differences(rows)
        columns = list(next(iter(found.values()), {}))
        most = max(most, len(columns))
        for across, name in enumerate(columns):
            steps_alone = [v for v in VARIANTS if v.name in found and v.beside == RELEASED and v.precision == "float32"]
            points = [(cost(v, task), found[v.name][name]) for v in steps_alone]
            title = f"{task.upper()} {column_by_name(name).title}"
            left, top = gap + across * (width + gap), gap + down * (height + gap)
            panels.append(f'<g transform="translate({left} {top})">{panel(title, points, width, height)}</g>')
    size = gap + most * (width + gap), gap + len(by_task) * (height + gap)
    style = "<style>text{font:11px sans-serif;fill:#555}line{stroke:#999}circle{fill:#36c}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}">{style}'
    return f'{head}<rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>\n'


def panel(title: str, points: Sequence[tuple[float, PairedDifference]], width: int, height: int) -> str:
    """Return a panel: cost from 0 to 1 to the right, the difference with its interval upwards, 0 in the middle."""
    ends = [abs(x) for _, d in points for x in (d.mean, d.utterances_ci95_low, d.utterances_ci95_high) if x is not None]
    scale = height / 2 / (max(ends, default=0) or 1)
    shapes = [f'<text y="-6">{title}</text><line x2="{width}" y1="{height / 2}" y2="{height / 2}"/>']
    for share, difference in points:
        x, y = share * width, height / 2 - scale * (difference.mean or 0)
        low, high = difference.utterances_ci95_low, difference.utterances_ci95_high
        if low is not None and high is not None:
            y1, y2 = height / 2 - scale * low, height / 2 - scale * high
            shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>')
        shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    shapes += [f'<text x="{share * width - 8}" y="{height + 12}">{share:g}</text>' for share in (0, 0.5, 1)]
    return "".join(shapes)


if __name__ == "__main__":
    main()
