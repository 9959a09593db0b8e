"""What the published files hold, against what the models need: every difference, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mode
from typing import Any

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.lora import PUBLISHED_PREFIX
from metis_lightning.safe_parsing import load_json
from metis_lightning.tokens.semantic_codec import SemanticCodecConfig
from metis_lightning.tokens.w2v_bert import ENCODER_SETTINGS
from metis_lightning.weights.build import config_from, plain_config
from metis_lightning.weights.needs import needed_tensors
from metis_lightning.weights.published.layout import (
    LIP_ENCODER,
    SSL_LAYER,
    W2V_BERT,
    PublishedFile,
    TaskLayout,
    acoustic_config,
    s2a_config,
    stage1_config,
)
from metis_lightning.weights.published.locate import ENCODER_CONFIG, Located
from metis_lightning.weights.tensor_file import TensorFile

Config = dict[str, Any]


@dataclass(frozen=True)
class Inspected:
    """A part whose files fit.

    tensors: our name to the file, its rule, and the published name.
    left_out: published names that are not imported.
    """

    located: Located
    config: Config
    tensors: Mapping[str, tuple[TensorFile, PublishedFile, str]]
    left_out: tuple[str, ...]

    def load(self) -> dict[str, Tensor]:
        """Return the tensors; those that are not computed on are still on the disk."""
        return {name: _computed(rule, name, file.tensor(theirs)) for name, (file, rule, theirs) in self.tensors.items()}

    @property
    def shapes(self) -> dict[str, Tensor]:
        """The tensors on the meta device."""
        return {name: file.shapes[theirs] for name, (file, _, theirs) in self.tensors.items()}


def inspect(located: Sequence[Located], sizes: Mapping[str, Any], ignored: Sequence[str] = ()) -> list[Inspected]:
    """Return the parts with their configurations and the tensors that they take from their files.

    Args:
        located: the parts' files.
        sizes: the parts of a bundle's index; a file that states its own sizes goes before it.
        ignored: patterns of published names that are left out although no model has them.

    Raises:
        UserError: naming every tensor that is missing, unexpected or of another shape or kind, in all files.
    """
    parts, problems = [], []
    configs: dict[str, Config] = {name: dict(part["config"]) for name, part in sizes.items()}
    for found in located:
        try:
            part = _opened(found, configs, ignored)
        except UserError as error:
            problems.append(str(error))
            continue
        configs[found.part.name] = part.config
        problems += _problems(part, configs["stage1"])
        parts.append(part)
    if "stage1" not in {part.located.part.name for part in parts}:
        problems += [
            f"{part.located.files[0]}: a LoRA, which needs the base" for part in parts if part.config.get("lora_rank")
        ]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        hint = "; files of other sizes than the paper's need --sizes BUNDLE" if _about_shapes(problems) else ""
        raise UserError(f"{count}, so nothing was imported: {'; '.join(problems)}{hint}")
    return parts


def _about_shapes(problems: Sequence[str]) -> bool:
    return any("has shape" in problem for problem in problems)


def _opened(found: Located, configs: Mapping[str, Config], ignored: Sequence[str]) -> Inspected:
    """Return a part with the names that its files give it."""
    tensors: dict[str, tuple[TensorFile, PublishedFile, str]] = {}
    left_out = []
    files = [TensorFile(path) for path in found.files]
    rules = found.part.files
    if len(rules) != len(files):
        # A task of which all was published and a LoRA is given, or the other way round.
        rules = (PublishedFile("", removed=PUBLISHED_PREFIX),) * len(files)
    for file, rule in zip(files, rules, strict=True):
        for theirs in file.shapes:
            name = rule.name(theirs)
            if (rule.left_out and re.match(rule.left_out, name)) or any(fnmatchcase(theirs, one) for one in ignored):
                left_out.append(theirs)
            elif name in tensors:
                raise UserError(f"{file.path}: {theirs!r} is in {tensors[name][0].path} too")
            else:
                tensors[name] = (file, rule, theirs)
    shapes = {name: file.shapes[theirs] for name, (file, _, theirs) in tensors.items()}
    return Inspected(found, _config(found, files, shapes, configs), tensors, tuple(left_out))


def _config(
    found: Located, files: Sequence[TensorFile], shapes: Mapping[str, Tensor], configs: Mapping[str, Config]
) -> Config:
    """Return the configuration of a part: of the sizes that its file states, or else of the given ones."""
    name = found.part.name
    published = next((config for file in files if (config := file.published_config()) is not None), None)
    try:
        if name == "w2v_bert":
            return _encoder_config(found)
        if found.part is LIP_ENCODER:
            return _settings(found.files[0].with_suffix(".json"))
        if name == "ssl_features":
            return {"kind": "w2v_bert", "encoder": W2V_BERT.name, "layer": SSL_LAYER, "dim": _feature_dim(configs)}
        if found.part.task is not None:
            return _task_config(found.part.task, published or {}, shapes, configs)
        return configs[name] if published is None else _from_published(name, published)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{files[0].path}: the sizes that it states are not those of {name!r} ({error})") from error


def _from_published(name: str, published: Mapping[str, Any]) -> Config:
    """Return the configuration of a shared model by the published names of its sizes."""
    if name == "semantic_codec":
        return plain_config(config_from(SemanticCodecConfig, published))
    if name == "acoustic_codec":
        return plain_config(acoustic_config(published))
    return plain_config(stage1_config(published) if name == "stage1" else s2a_config(published))


def _feature_dim(configs: Mapping[str, Config]) -> int:
    """Return the width of the SSL features; the published encoder's where it could not be opened."""
    return configs.get("w2v_bert", {}).get("hidden_size", 1024)


def _encoder_config(found: Located) -> Config:
    """Return the settings of the first layers of an encoder, whose configuration lies beside its weights."""
    settings = _settings(found.files[0].with_name(ENCODER_CONFIG))
    kept = {key: settings[key] for key in ENCODER_SETTINGS if key in settings}
    return {**kept, "hidden_size": settings["hidden_size"], "num_hidden_layers": SSL_LAYER}


def _settings(path: Path) -> Config:
    """Return a configuration that lies beside weights."""
    try:
        settings = load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: the configuration of the weights beside it is missing or not JSON ({error})"
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: not a configuration, which is a JSON object")
    return settings


def _task_config(
    layout: TaskLayout, published: Mapping[str, Any], shapes: Mapping[str, Tensor], configs: Mapping[str, Config]
) -> Config:
    """Return the configuration of a fine-tuned stage 1, as `weights.build.load_task` reads it."""
    width = layout.cond_dim or _feature_dim(configs)
    # A tensor of another rank than most is then reported by its shape.
    ranks = [shape.shape[0] for name, shape in shapes.items() if ".lora_A." in name]
    rank = mode(ranks) if ranks else 0
    if published.get("lora_alpha", 2 * rank) != 2 * rank:
        raise ValueError(f"alpha {published['lora_alpha']} of LoRA rank {rank}: only twice the rank is published")
    config: Config = {
        "adapter": layout.adapter,
        "cond_dim": published.get("cond_dim", width) if layout.adapter else 0,
        "lora_rank": rank,
        "text": layout.text,
        "answers": list(layout.answers),
    }
    if not rank:
        own = plain_config(stage1_config(published)) if published else configs["stage1"]
        config["stage1"] = {**own, "use_phone_cond": layout.text is not None}
    return config


def _problems(part: Inspected, base: Config) -> list[str]:
    """Return every tensor that does not fit, by its name."""
    if part.located.part is LIP_ENCODER:
        return []
    needed = needed_tensors(part.located.part.name, part.config, base)
    where = ", ".join(str(path) for path in part.located.files)
    problems = [f"{where}: {name!r} is missing" for name in needed if name not in part.tensors]
    for name, (file, _, theirs) in part.tensors.items():
        given = file.shapes[theirs]
        if name not in needed:
            problems.append(f"{file.path}: unexpected {theirs!r}")
        elif given.shape != needed[name].shape:
            ours = tuple(needed[name].shape)
            problems.append(f"{file.path}: {theirs!r} has shape {tuple(given.shape)}, the model needs {ours}")
        elif not given.is_floating_point():
            problems.append(f"{file.path}: {theirs!r} holds {given.dtype}, weights are floating-point")
    return problems


def _computed(rule: PublishedFile, name: str, tensor: Tensor) -> Tensor:
    return rule.computed[name](tensor) if name in rule.computed else tensor
