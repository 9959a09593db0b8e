"""Model cards of bundles, and `push`, which puts a bundle with its card on the model hub.

A card that somebody wrote is kept; of one that was made here only the scores are made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.options import PROGRAM
from metis_lightning.safe_parsing import load_json, read_yaml
from metis_lightning.weights.bundle import BUNDLE_FILES, is_hub_name, read_index, read_part
from metis_lightning.weights.published.options import PushOptions

CARD = "README.md"
_MADE = "<!-- made by metis-lightning; delete this line to keep what you write -->"
_SCORES = re.compile(r"(?<=<!-- scores -->\n).*?(?=<!-- end of scores -->)", re.DOTALL)
_NOT_MEASURED = "Not measured yet: `evaluate` does, and `push --results DIR` puts it here.\n"
# Of a config: what a reader of the card asks for.
_SETTINGS = (
    ("module", "model.class_path"),
    ("corpus", "data.class_path"),
    ("manifest", "data.init_args.manifest"),
    ("base", "model.init_args.base"),
    ("LoRA rank", "model.init_args.lora_rank"),
    ("seconds in a batch", "data.init_args.batch_seconds"),
    ("optimizer", "model.init_args.optimizer.class_path"),
    ("learning rate", "model.init_args.optimizer.init_args.lr"),
)


def write_card(bundle: Path, training: Mapping[str, object] | None = None, results: Sequence[Path] = ()) -> Path:
    """Write a bundle's card, with what it was trained by and the scores of runs of `evaluate`; return its file.

    A `UserError` if the bundle or a folder of results is none.
    """
    path = bundle / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text and _MADE not in text:
        return path
    if training is not None or not text:
        text = "\n".join(_card(bundle, training or {}))
    if results:
        scores = "\n".join(line for folder in results for line in _score_lines(folder)) + "\n"
        text = _SCORES.sub(lambda _: scores, text)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def training_of(checkpoint: Path, step: int, averaged: int = 1) -> dict[str, object]:
    """Return how a checkpoint was trained, by its step and the config in its run's folder, if that is there."""
    said: dict[str, object] = {"steps": f"{step:,}"}
    if averaged > 1:
        said["weights"] = f"mean of {averaged} checkpoints, this one the last"
    config = checkpoint.resolve().parents[1] / "config.yaml"
    content = read_yaml(config) if config.is_file() else {}
    for name, key in _SETTINGS:
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            said[name] = value
    return said


def _card(bundle: Path, training: Mapping[str, object]) -> Iterator[str]:
    parts = read_index(bundle)["parts"]
    # Of every part: the licence of one is not that of the others, and one that says none is not free.
    licences = {name: str(entry.get("licence", "not stated")) for name, entry in parts.items()}
    # The hub knows licences by identifiers of its own; which part has which is told in the table.
    yield from ("---", "library_name: metis-lightning", "license: other")
    yield f"license_name: {'; '.join(dict.fromkeys(licences.values()))}"
    yield from (
        "tags: [speech, masked-generative-transformer, metis]",
        "---",
        _MADE,
        "",
        f"# {bundle.resolve().name}",
        "",
    )
    yield "Weights of Metis (arXiv 2502.03128) for metis-lightning."
    yield from ("", "| part | parameters | stored as | licence |", "|---|---:|---|---|")
    for name, entry in parts.items():
        cells = f"{entry.get('parameters', 0):,} | {entry.get('dtype', '')} | {licences[name]}"
        yield f"| `{name}` | {cells} |"
    if training:
        yield from ("", "## Training", "", *(f"- {name}: {value}" for name, value in training.items()))
    yield from ("", "## Scores", "", "<!-- scores -->", _NOT_MEASURED + "<!-- end of scores -->", "", "## Use", "")
    base = next((entry["config"]["base"] for entry in parts.values() if "base" in entry.get("config", {})), None)
    if base is not None and "stage1" not in parts:
        yield f"A fine-tuning of `{base}`'s stage 1, without that: `weights.export --merge --base` of its run adds it."
    else:
        yield f"`Metis.from_pretrained(NAME, task=...)`, `{PROGRAM} generate --model NAME`, by folder or owner/name."
    yield from ("", "Imitate voices only of people who agreed, and say that speech is generated where it is heard.", "")


def _score_lines(folder: Path) -> Iterator[str]:
    """Yield a table of a run's means with their 95% intervals, a line for each system and test set."""
    file = folder / "summary.json"
    if not file.is_file():
        raise UserError(f"--results {folder}: no finished run of `evaluate` (it has no summary.json)")
    for group in load_json(file.read_bytes()):
        yield f"**{group['system']}** on {group['test_set']}, {group['n_rows']} rows"
        yield from ("", "| metric | mean | 95% interval | n | failed |", "|---|---:|---:|---:|---:|")
        for name, each in group["metrics"].items():
            if each["mean"] is None:
                continue
            scale = 100.0 if each.get("unit") == "%" else 1.0
            mean, low, high = (
                "–" if each[key] is None else f"{scale * each[key]:.3g}" for key in ("mean", "ci95_low", "ci95_high")
            )
            yield f"| {name}{' %' if scale > 1 else ''} | {mean} | {low} to {high} | {each['n']} | {each['n_failed']} |"
        yield ""


def run_push(options: PushOptions) -> None:
    """Run `push`. A `UserError` if the bundle is damaged, the name is none, or the hub does not take it."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if options.bundle is None or options.repository is None:
        raise UserError(f"give the bundle's folder and the repository: {PROGRAM} push my_bundle owner/name")
    bundle, name = options.bundle, options.repository
    if not is_hub_name(name) or "@" in name:
        raise UserError(f"{name}: a repository is called owner/name")
    parts = read_index(bundle)["parts"]
    if not parts:
        raise UserError(f"{bundle}: no bundle: it has no bundle.yaml; `weights.export` and `import` make one")
    for part in parts:
        read_part(bundle, part)
    card = write_card(bundle, results=options.results)
    api = HfApi()
    try:
        api.create_repo(name, private=options.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=str(bundle),
            allow_patterns=list(BUNDLE_FILES),
            commit_message=options.message,
        )
    except OfflineModeIsEnabled as error:
        raise UserError("push needs the hub: HF_HUB_OFFLINE=0 before the command lets it connect") from error
    except LocalTokenNotFoundError as error:
        raise UserError("push needs a log-in to the hub: hf auth login") from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "log in with `hf auth login`, and own the repository" if "40" in reason[:12] else "run it again"
        raise UserError(f"{name}: the hub did not take it ({reason}); {advice}") from error
    print(f"card: {card}")
    print(f"pushed: {name}@{done.oid}")
