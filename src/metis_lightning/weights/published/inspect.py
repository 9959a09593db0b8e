"""Published files against what the models need: every difference is named before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.lora import PUBLISHED_PREFIX, extend
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.safe_parsing import load_json
from metis_lightning.tokens.w2v_bert import build_encoder
from metis_lightning.weights.build import FEATURES, MODELS, build_shared, config_from, extension_of
from metis_lightning.weights.published import layout
from metis_lightning.weights.published.layout import Config, PublishedFile, TaskLayout
from metis_lightning.weights.published.locate import LocatedPart
from metis_lightning.weights.tensor_file import TensorFile


@dataclass(frozen=True)
class FittingPart:
    """A part whose files fit."""

    located: LocatedPart
    config: Config
    tensors: Mapping[str, tuple[TensorFile, PublishedFile, str]]  # our name to file, its rule, and published name
    shapes: Mapping[str, Tensor]  # the tensors on the meta device
    left_out: tuple[str, ...]  # published names that are not imported

    def load(self) -> dict[str, Tensor]:
        """Return the tensors; those that are not computed on are still on the disk."""
        loaded = {name: file.tensor(theirs) for name, (file, _, theirs) in self.tensors.items()}
        computed = {name: rule.computed[name] for name, (_, rule, _) in self.tensors.items() if name in rule.computed}
        return {**loaded, **{name: compute(loaded[name]) for name, compute in computed.items()}}


def inspect(located: Sequence[LocatedPart], sizes: Mapping[str, Any], ignored: Sequence[str] = ()) -> list[FittingPart]:
    """Return the parts with their configurations and the tensors that they take from their files.

    `sizes` are the parts of a bundle's index, before which a file's own go; tensors of the patterns `ignored` are left
    out. A `UserError` names every other tensor that does not fit, in all files.
    """
    parts, problems = [], []
    configs: dict[str, Config] = {name: dict(part["config"]) for name, part in sizes.items()}
    for each in located:
        try:
            part = _opened(each, configs, ignored)
        except UserError as error:
            problems.append(str(error))
            continue
        # What one file states is what those after it are measured by.
        configs[each.part.name] = part.config
        problems += _differences(part, configs["stage1"])
        parts.append(part)
    if "stage1" not in {part.located.part.name for part in parts}:
        lora = (part.located.files[0] for part in parts if part.config.get("lora_rank"))
        problems += [f"{path}: a LoRA, which needs the base" for path in lora]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        is_of_shapes = any("has shape" in problem for problem in problems)
        hint = "; files of other sizes than the paper's need --sizes BUNDLE" if is_of_shapes else ""
        raise UserError(f"{count}, so nothing was imported: {'; '.join(problems)}{hint}")
    return parts


def _opened(located: LocatedPart, configs: Mapping[str, Config], ignored: Sequence[str]) -> FittingPart:
    tensors: dict[str, tuple[TensorFile, PublishedFile, str]] = {}
    left_out = []
    # Names and shapes only; bytes are read when the part is written.
    files = [TensorFile(path) for path in located.files]
    rules = located.part.files
    if len(rules) != len(files):
        # A task of which all was published and a LoRA is given, or the other way round.
        rules = (PublishedFile("", removed=PUBLISHED_PREFIX),) * len(files)
    for file, rule in zip(files, rules, strict=True):
        for theirs in file.shapes:
            name = rule.added + theirs.removeprefix(rule.removed)
            name = rule.renamed.get(name, name)
            if (rule.left_out and re.match(rule.left_out, name)) or any(fnmatchcase(theirs, one) for one in ignored):
                left_out.append(theirs)
            elif name in tensors:
                raise UserError(f"{file.path}: {theirs!r} is in {tensors[name][0].path} too")
            else:
                tensors[name] = (file, rule, theirs)
    shapes = {name: file.shapes[theirs] for name, (file, _, theirs) in tensors.items()}
    try:
        config = _config(located, files, shapes, configs)
    except (KeyError, TypeError, ValueError) as error:
        what = f"the sizes that it states are not those of {located.part.name!r} ({error})"
        raise UserError(f"{files[0].path}: {what}") from error
    return FittingPart(located, config, tensors, shapes, tuple(left_out))


def _config(
    located: LocatedPart, files: Sequence[TensorFile], shapes: Mapping[str, Tensor], configs: Mapping[str, Config]
) -> Config:
    part = located.part
    if part.config_file is not None:
        published: Mapping[str, Any] | None = _read_config(located.files[0].with_name(part.config_file))
    else:
        published = next((config for file in files if (config := file.published_config()) is not None), None)
    # The published encoder's width, where that could not be opened.
    feature_dim = configs.get("w2v_bert", {}).get("hidden_size", 1024)
    if part.task is not None:
        return _task_config(part.task, published or {}, shapes, configs["stage1"], feature_dim)
    if part.name == "ssl_features":
        return {"kind": "w2v_bert", "encoder": layout.W2V_BERT.name, "layer": layout.SSL_LAYER, "dim": feature_dim}
    return configs[part.name] if published is None or part.config is None else part.config(published)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        what = "the configuration of the weights beside it is missing or not JSON"
        raise UserError(f"{path}: {what} ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a configuration, which is a JSON object")
    return config


def _task_config(
    task: TaskLayout, published: Mapping[str, Any], shapes: Mapping[str, Tensor], base: Config, feature_dim: int
) -> Config:
    # A tensor of another rank than most is then reported by its shape.
    ranks = [shape.shape[0] for name, shape in shapes.items() if ".lora_A." in name]
    rank = mode(ranks) if ranks else 0
    if published.get("lora_alpha", 2 * rank) != 2 * rank:
        raise ValueError(f"alpha {published['lora_alpha']} of LoRA rank {rank}: only twice the rank is published")
    config: Config = {
        "adapter": task.adapter,
        "cond_dim": published.get("cond_dim", task.cond_dim or feature_dim) if task.adapter else 0,
        "lora_rank": rank,
        "text": task.text,
        "answers": list(task.covers),
    }
    if not rank:
        own = layout.stage1_config(published) if published else base
        config["stage1"] = {**own, "use_phone_cond": task.text is not None}
    return config


def _differences(part: FittingPart, base: Config) -> list[str]:
    # It is carried along as it is: no model here has its names.
    if part.located.part is layout.LIP_ENCODER:
        return []
    needed = needed_tensors(part.located.part.name, part.config, base)
    where = ", ".join(str(path) for path in part.located.files)
    problems = [f"{where}: {name!r} is missing" for name in needed if name not in part.tensors]
    for name, (file, _, theirs) in part.tensors.items():
        published = part.shapes[name]
        if name not in needed:
            problems.append(f"{file.path}: unexpected {theirs!r}")
        elif published.shape != needed[name].shape:
            ours = tuple(needed[name].shape)
            problems.append(f"{file.path}: {theirs!r} has shape {tuple(published.shape)}, the model needs {ours}")
        elif not published.is_floating_point():
            problems.append(f"{file.path}: {theirs!r} holds {published.dtype}, weights are floating-point")
    return problems


def needed_tensors(name: str, config: Config, base: Config) -> dict[str, Tensor]:
    """Return what a part of this configuration holds, on the meta device; a LoRA extends the part `base`."""
    if name == "ssl_features":
        settings = {key: value for key, value in config.items() if key != "kind"}
        return FEATURES[config["kind"]](**settings).state_dict()
    if name in MODELS:
        return build_shared(name, config).state_dict()
    with torch.device("meta"):
        if name == "w2v_bert":
            return build_encoder(config).state_dict()
        model = Stage1(config_from(Stage1Config, config.get("stage1", base)))
        names = extend(model, extension_of(config))
    return {key: value for key, value in model.state_dict().items() if key in names}
