"""`prepare`: lists a corpus as a manifest. A corpus's own file is imported when it is scanned: help needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from metis_lightning.cli.command import Command
from metis_lightning.errors import UserError
from metis_lightning.options import CommandOptions, option

if TYPE_CHECKING:
    from metis_lightning.data.manifest.scan import CorpusScan
    from metis_lightning.tokens.visual.encoder import VisualEncoder


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(CommandOptions):
    """Options of `prepare` for any corpus; a corpus adds its own.

    corpus: its name in messages, and the second word of its command.
    lister: `module:name` in `data.corpora` of what scans it; its arguments are called as the options are.
    about, example: for the help.
    """

    corpus: ClassVar[str]
    lister: ClassVar[str]
    about: ClassVar[str]
    example: ClassVar[str]

    root: str = option("folder of the corpus; emilia takes any fsspec URL too", metavar="DIR")
    out: Path = option("the manifest; paths in it are relative to --root", metavar="M.jsonl")
    workers: int = option("processes that scan", 1, metavar="N", least=1)
    shard: str = option("this job of N that share --out, from 0", "0/1", metavar="I/N")
    max_faults: float = option(
        "largest share of faulty utterances, and of broken archives, to leave out",
        0.0,
        metavar="SHARE",
        least=0,
        most=1,
    )
    check: Literal["decode", "header"] = option(
        "decode all audio, or look at headers only, which is faster and misses broken frames; librimix always decodes",
        "decode",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        index, _, count = self.shard.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UserError(f"--shard: {self.shard!r} is not I/N with 0 <= I < N, such as 0/4")
        if self.out.suffix != ".jsonl":
            raise UserError(f"--out {self.out}: a manifest's name ends with .jsonl")

    @property
    def job(self) -> tuple[int, int]:
        """This job and the number of jobs, by `shard`."""
        index, _, count = self.shard.partition("/")
        return int(index), int(count)

    def scan(self) -> CorpusScan:
        """Return what lists the corpus, by the options that it takes. A `UserError` if it or a package is missing."""
        module, _, name = self.lister.partition(":")
        lister = getattr(import_module(f"metis_lightning.data.corpora.{module}"), name)
        values = {**vars(self), "decode": self.check == "decode"}
        scan: CorpusScan = lister(**{key: values[key] for key in signature(lister).parameters if key in values})
        return scan

    def finish(self) -> None:
        """Do what comes once the manifest is there."""


@dataclass(frozen=True, kw_only=True)
class EmiliaOptions(PrepareOptions):
    """Options of `prepare emilia`."""

    corpus, lister = "emilia", "emilia:EmiliaScan"
    about = "Emilia and Emilia-YODAS: tars, or lists beside unpacked folders"
    example = "--root /data/Emilia-Dataset --out emilia.jsonl --workers 8"

    languages: tuple[str, ...] = option("only these, e.g. EN DE (default: all)", (), metavar="L")


@dataclass(frozen=True, kw_only=True)
class LibriMixOptions(PrepareOptions):
    """Options of `prepare librimix`."""

    corpus, lister = "librimix", "librimix:LibriMixScan"
    about = "Libri2Mix, Libri3Mix, …: on disk, or made from LibriSpeech and WHAM! when they are read"
    example = "--root /data/Libri2Mix/wav16k/min --librispeech /data/LibriSpeech --out librimix.jsonl"

    mix: Literal["mix_clean", "mix_both", "mix_single"] = option("which mixtures", "mix_clean")
    librispeech: Path | None = option("folder of LibriSpeech's subsets, for the transcripts", None, metavar="DIR")
    metadata: tuple[Path, ...] = option(
        "make the mixtures when they are read, by these csv files of LibriMix's metadata/ (or their folder); "
        "--root is then the folder that holds LibriSpeech and wham_noise",
        (),
        metavar="CSV",
    )
    speech: str = option("with --metadata: LibriSpeech's folder in --root", "LibriSpeech", metavar="NAME")
    noise: str = option("with --metadata: the noise's folder in --root", "wham_noise", metavar="NAME")
    rate: Literal[8000, 16000] = option("with --metadata: in Hz", 16000)
    mode: Literal["min", "max"] = option("with --metadata", "min")

    def scan(self) -> CorpusScan:
        """Return what lists the mixtures: those on disk, or those that the csv files describe."""
        if not self.metadata:
            return super().scan()
        from metis_lightning.data.corpora.librimix import OnTheFlyMixtureScan

        # The transcripts lie beside the speech that the mixtures are made of.
        speech = self.librispeech or Path(self.root) / self.speech
        return OnTheFlyMixtureScan(
            self.mix, speech, self.root, self.metadata, self.speech, self.noise, self.rate, self.mode
        )


@dataclass(frozen=True, kw_only=True)
class DnsOptions(PrepareOptions):
    """Options of `prepare dns`."""

    corpus, lister = "dns", "dns:DnsScan"
    about = "DNS Challenge 2020: clean speech, and noisy-clean pairs"
    example = "--root /data/DNS-Challenge/datasets --out dns.jsonl"


@dataclass(frozen=True, kw_only=True)
class LibriSpeechOptions(PrepareOptions):
    """Options of `prepare librispeech`."""

    corpus, lister = "librispeech", "librispeech:LibriSpeechScan"
    about = "LibriSpeech"
    example = "--root /data/LibriSpeech --out librispeech.jsonl"

    subsets: tuple[str, ...] = option("only these (default: all)", (), metavar="S")


@dataclass(frozen=True, kw_only=True)
class VctkOptions(PrepareOptions):
    """Options of `prepare vctk`."""

    corpus, lister = "vctk", "vctk:VctkScan"
    about = "VCTK 0.92 or 0.80"
    example = "--root /data/VCTK-Corpus-0.92 --out vctk.jsonl"


@dataclass(frozen=True, kw_only=True)
class FolderOptions(PrepareOptions):
    """Options of `prepare folder`."""

    corpus, lister = "folder", "folder:FolderScan"
    about = "any folder of recordings; `new` writes a config for it, too"
    example = "--root recordings --out recordings.jsonl --speakers name"

    speakers: Literal["folder", "name", "one"] = option("the first folder, the name up to _ or -, or one", "folder")
    language: str = option("of the texts: a.txt beside a.wav, or metadata.csv", "en", metavar="L")


@dataclass(frozen=True, kw_only=True)
class LipOptions(PrepareOptions):
    """Options of `prepare` for talking faces: mouths cropped on the way, and their features."""

    mouths: str | None = option(
        "crop the mouth of each face into DIR/ID.mp4 (needs the extra `lips`); what is there stays", None, metavar="DIR"
    )
    features: Path | None = option("then write each mouth's features (T, C) into DIR/ID.npy", None, metavar="DIR")
    encoder: str | None = option(
        "with --features: Auto-AVSR's weights of visual speech recognition, or a bundle with a visual encoder",
        None,
        metavar="X",
    )
    device: str = option("with --features: cpu, cuda, cuda:1, …", "cpu", metavar="D")

    def scan(self) -> CorpusScan:
        """Return what lists the clips, once all that is needed is seen to be there."""
        from metis_lightning.data.media.mouths import require_face_mesh
        from metis_lightning.data.media.video import require_av

        require_av()
        if self.mouths is not None:
            require_face_mesh()
        if (self.features is None) != (self.encoder is None):
            raise UserError(
                "give --features and --encoder together: the folder, and the weights that make what is in it"
            )
        if self.encoder is not None:
            _visual_encoder(self.encoder)
        return super().scan()

    def finish(self) -> None:
        """Write the features of the mouths."""
        if self.features is None or self.encoder is None:
            return
        from metis_lightning.tokens.visual.lip_features import LipFeatureOptions, write_lip_features

        mouths = None if self.mouths is None else Path(self.mouths)
        wanted = LipFeatureOptions(self.out, self.root, self.features, mouths, self.device, self.job)
        count = write_lip_features(_visual_encoder(self.encoder).to(self.device), wanted)
        print(f"lip features: {count:,} written to {self.features}")


def _visual_encoder(name: str) -> VisualEncoder:
    """Return the encoder of a file of Auto-AVSR's weights, or of a bundle. A `UserError` if neither has one."""
    from metis_lightning.tokens.visual.auto_avsr import AutoAvsrFeatures
    from metis_lightning.weights.build import load_visual_encoder
    from metis_lightning.weights.bundle import bundle_folder

    path = Path(name)
    if path.is_file():
        return AutoAvsrFeatures(path)
    # A mistyped file is not asked for at the model hub.
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt", ".safetensors"):
        raise UserError(f"--encoder {name}: no such weights; download Auto-AVSR's model, or name a bundle")
    encoder = load_visual_encoder(bundle_folder(name))
    if encoder is None:
        raise UserError(f"--encoder {name}: the bundle has no visual encoder; give Auto-AVSR's weights")
    return encoder


@dataclass(frozen=True, kw_only=True)
class Lrs3Options(LipOptions):
    """Options of `prepare lrs3`."""

    corpus, lister = "lrs3", "lrs:lrs3_scan"
    about = "LRS3, as given out or prepared for AV-HuBERT or Auto-AVSR"
    example = (
        "--root /data/lrs3 --out lrs3.jsonl --mouths mouths --features lips --encoder vsr_trlrs3_base.pth --workers 8"
    )

    layout: Literal["auto", "raw", "avhubert", "autoavsr"] = option(
        "as given out, or by AV-HuBERT's or Auto-AVSR's preparation; auto: by their lists", "auto"
    )


@dataclass(frozen=True, kw_only=True)
class Lrs2Options(LipOptions):
    """Options of `prepare lrs2`."""

    corpus, lister = "lrs2", "lrs:lrs2_scan"
    about = "LRS2, as given out or prepared for Auto-AVSR"
    example = "--root /data/mvlrs_v1 --out lrs2.jsonl --mouths mouths"


@dataclass(frozen=True, kw_only=True)
class VideoOptions(LipOptions):
    """Options of `prepare video`."""

    corpus, lister = "video", "av_corpus:CustomVideoScan"
    about = "talking faces of your own, by a list"
    example = "--root /data/faces --list clips.csv --out faces.jsonl --mouths mouths"

    list: Path = option(
        "jsonl, or csv with a header: video, audio, text, speaker, id, split, language, lips; paths below --root",
        metavar="FILE",
    )


def run_prepare(options: PrepareOptions) -> None:
    """Build a corpus's manifest and say what it holds. A `UserError` if too much of the corpus is missing or faulty."""
    from metis_lightning.data.manifest.build import BuildOptions, build_manifest
    from metis_lightning.data.manifest.records import FAULTS, PARTS, SUMMARY
    from metis_lightning.files import check_output

    # All outputs are looked at first: a scan of a large corpus takes hours.
    for path in (options.out, options.out.with_suffix(FAULTS), options.out.with_suffix(SUMMARY)):
        check_output(path)
    check_output(options.out.with_suffix(PARTS), is_folder=True)
    for name in ("mouths", "features"):
        if (folder := getattr(options, name, None)) is not None:
            check_output(Path(folder), f"--{name}", is_folder=True)
    built = build_manifest(options.scan(), BuildOptions(options.out, options.workers, options.job, options.max_faults))
    if built is None:
        return
    size = f"{built.utterances:,} utterances, {built.hours:.2f} h, {built.speakers:,} speakers"
    print(f"{options.corpus}: {size}, {built.faults.total():,} faults")
    print("languages:", ", ".join(f"{name} {hours:.2f} h" for name, hours in sorted(built.languages.items())))
    print("splits:", ", ".join(f"{name} {count:,}" for name, count in built.splits.most_common()))
    # What differs from the rest is resampled and mixed down when it is read: said once, here.
    kinds = {"Hz": built.sample_rates, "channels": built.channels, "pictures a second": built.frame_rates}
    for name, counts in kinds.items():
        if counts:
            print(f"{name}:", ", ".join(f"{value} ({count:,})" for value, count in counts.most_common()))
    if built.faults:
        faults = ", ".join(f"{count:,} {kind}" for kind, count in built.faults.most_common())
        print(f"left out: {faults}; listed in {options.out.with_suffix(FAULTS)}")
    print(f"manifest: {options.out} (sha256 {built.sha256[:16]})")
    options.finish()


_AUDIO = (EmiliaOptions, LibriMixOptions, DnsOptions, LibriSpeechOptions, FolderOptions)
_FACES = (Lrs3Options, Lrs2Options, VideoOptions)
CORPORA = {
    options.corpus: Command(options, f"{__name__}:run_prepare", options.about, (options.example,))
    for options in (*_AUDIO, *_FACES, VctkOptions)
}
"""What `prepare` lists, by the second word of the command."""
