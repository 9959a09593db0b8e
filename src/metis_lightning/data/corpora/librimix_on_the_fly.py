"""Lists LibriMix without a copy of it: mixtures made when they are read, by the published generation metadata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.corpora.librimix import Line, Mixture, MixtureScan
from metis_lightning.data.manifest.scan import Row
from metis_lightning.data.media.locations import parse_location, relative_path
from metis_lightning.data.media.mixdown import LIBRIMIX_RATE, MODES, Mixdown
from metis_lightning.data.media.storage import visible_in
from metis_lightning.errors import UserError
from metis_lightning.texts import posix_path


@dataclass(frozen=True)
class OnTheFlyMixtureScan(MixtureScan):
    """Lists mixtures that are made when they are read, by the published metadata; no copy of them is on disk.

    root: folder (LibriMix's `storage_dir`) that holds LibriSpeech and the WHAM! noise.
    metadata: csv files such as `metadata/Libri2Mix/libri2mix_test-clean.csv`, or their folder.
    speech, noise: folders below `root`.
    sample_rate: of the mixtures, 8000 or 16000 Hz.
    mode: "min" or "max".
    """

    root: str = ""
    metadata: tuple[Path, ...] = ()
    speech: str = "LibriSpeech"
    noise: str = "wham_noise"
    sample_rate: int = LIBRIMIX_RATE
    mode: str = "min"

    layout = "csv files such as libri2mix_test-clean.csv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES or self.sample_rate not in (8000, LIBRIMIX_RATE):
            raise UserError(
                f"mode {self.mode!r} at {self.sample_rate} Hz: LibriMix has min and max at 8000 and 16000 Hz"
            )

    def tables(self) -> Sequence[Path]:
        """Return the csv files; those that end with `_info.csv` tell of speakers and are left out."""
        paths: list[Path] = []
        for path in self.metadata:
            paths += [p for p in visible_in(path) if p.suffix == ".csv"] if path.is_dir() else [path]
        return [path for path in paths if not path.stem.endswith("_info")]

    def files(self, line: Line) -> Sequence[Path]:
        """Return the flac files and the noise of a mixture."""
        rule = self._rule(line)
        return [Path(self.root) / path for path, _ in [*rule["mix"], *([rule["noise"]] if rule["noise"] else [])]]

    def mixture(self, line: Line, subset: str) -> Mixture:
        """Make the mixture once, to see that it can be made and how long it is."""
        rule = self._rule(line)
        count = len(rule["mix"])
        take = {"mix_clean": range(count), "mix_both": range(count + 1), "mix_single": (0, count)}[self.mix]
        mixture = {**rule, "take": list(take)}
        mixdown = parse_location(mixture, self.root, line["mixture_ID"])
        if not isinstance(mixdown, Mixdown):
            raise TypeError("a rule is a mixdown")
        sources = [{**rule, "take": [number]} for number in range(1 if self.mix == "mix_single" else count)]
        return Mixture(mixture, sources, len(mixdown.frames()[0]), self.sample_rate)

    def _rule(self, line: Line) -> Row:
        where = line["mixture_ID"]
        parts = [
            [self._below(self.speech, line[name], where), float(line[name.replace("_path", "_gain")])]
            for name in line
            if re.fullmatch(r"source_\d+_path", name)
        ]
        # Without noise in the sum, its file is not needed: it is never shorter than the longest voice.
        is_noisy = self.mix != "mix_clean"
        noise = [self._below(self.noise, line["noise_path"], where), float(line["noise_gain"])] if is_noisy else None
        return {"mix": parts, "noise": noise, "rate": self.sample_rate, "mode": self.mode}

    def _below(self, folder: str, path: str, where: str) -> str:
        return f"{folder}/{relative_path(posix_path(path), where)}"
