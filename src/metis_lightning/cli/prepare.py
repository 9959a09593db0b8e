"""`prepare`: lists a corpus as a manifest.

Options are declared here without torch, so that help answers at once; a corpus's own file is imported when it is
scanned.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import positive, share
from metis_lightning.errors import UserError

if TYPE_CHECKING:
    from metis_lightning.data.manifest.build import Summary
    from metis_lightning.data.manifest.scan import CorpusScan


class Corpus(NamedTuple):
    """What `prepare CORPUS` says, takes beside the common options, and scans."""

    about: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    scan: Callable[[argparse.Namespace], CorpusScan]
    finish: Callable[[argparse.Namespace], None] = lambda options: None
    """What is done once the manifest is there."""


def add_prepare_options(verb: argparse.ArgumentParser) -> None:
    """Add a parser for each corpus."""
    corpora = verb.add_subparsers(dest="corpus", required=True, metavar="CORPUS", parser_class=type(verb))
    for name, corpus in CORPORA.items():
        parser = corpora.add_parser(
            name,
            help=corpus.about,
            description=corpus.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            epilog=f"example:\n  python -m metis_lightning prepare {name} {corpus.example}",
        )
        _add_common(parser)
        corpus.add_options(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--root", required=True, metavar="DIR", help="folder of the corpus; emilia takes any fsspec URL too")
    add("--out", required=True, type=Path, metavar="M.jsonl", help="the manifest; paths in it are relative to --root")
    add("--workers", type=positive, default=1, metavar="N", help="processes that scan (default: 1)")
    add(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="this job of N that share --out, from 0 (default: 0/1)",
    )
    add(
        "--max-faults",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="largest share of faulty utterances, and of broken archives, to leave out (default: 0, none)",
    )
    add(
        "--check",
        choices=("decode", "header"),
        default="decode",
        help="decode all audio, or look at headers only, which is faster and misses broken frames "
        "(default: decode; librimix always decodes)",
    )


def run_prepare(options: argparse.Namespace) -> None:
    """Build a corpus's manifest and say what was found.

    Raises:
        UserError: if the corpus is not there, or more of it is faulty than allowed.
    """
    from metis_lightning.data.manifest.build import BuildOptions, build_manifest
    from metis_lightning.data.manifest.records import faults_path, parts_folder, summary_path
    from metis_lightning.files import check_output

    if options.out.suffix != ".jsonl":
        raise UserError(f"--out {options.out}: a manifest's name ends with .jsonl")
    for path in (options.out, faults_path(options.out), summary_path(options.out)):
        check_output(path)
    check_output(parts_folder(options.out), is_folder=True)
    for name in ("mouths", "features"):
        if (folder := getattr(options, name, None)) is not None:
            check_output(folder, f"--{name}", is_folder=True)
    scan = CORPORA[options.corpus].scan(options)
    built = build_manifest(scan, BuildOptions(options.out, options.workers, options.shard, options.max_faults))
    if built is not None:
        print(*_report(options.corpus, built, options.out), sep="\n")
        CORPORA[options.corpus].finish(options)


def _report(corpus: str, found: Summary, out: Path) -> list[str]:
    """Return the lines that say what a manifest holds."""
    lines = [
        f"{corpus}: {found.utterances:,} utterances, {found.hours:.2f} h, {found.speakers:,} speakers, "
        f"{found.faults.total():,} faults",
        "languages: " + ", ".join(f"{name} {hours:.2f} h" for name, hours in sorted(found.languages.items())),
        "splits: " + ", ".join(f"{name} {count:,}" for name, count in found.splits.most_common()),
    ]
    # What differs from the rest is resampled and mixed down when it is read: said once, here.
    kinds = (("Hz", found.sample_rates), ("channels", found.channels), ("pictures a second", found.frame_rates))
    for name, counts in ((name, counts) for name, counts in kinds if counts):
        lines.append(f"{name}: " + ", ".join(f"{value} ({count:,})" for value, count in counts.most_common()))
    if found.faults:
        faults = ", ".join(f"{count:,} {kind}" for kind, count in found.faults.most_common())
        lines.append(f"left out: {faults}; listed in {out.with_suffix('.faults.jsonl')}")
    return [*lines, f"manifest: {out} (sha256 {found.sha256[:16]})"]


def _emilia_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--languages", nargs="+", default=[], metavar="L", help="only these, e.g. EN DE (default: all)")


def _emilia(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.emilia import EmiliaScan

    return EmiliaScan(options.root, tuple(options.languages), options.check == "decode")


def _librimix_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mix", choices=("mix_clean", "mix_both", "mix_single"), default="mix_clean", help="(default: mix_clean)")
    add("--librispeech", type=Path, metavar="DIR", help="folder of LibriSpeech's subsets, for the transcripts")
    add(
        "--metadata",
        nargs="+",
        type=Path,
        default=[],
        metavar="CSV",
        help="make the mixtures when they are read, by these csv files of LibriMix's metadata/ (or their folder); "
        "--root is then the folder that holds LibriSpeech and wham_noise",
    )
    add("--speech", default="LibriSpeech", metavar="NAME", help="with --metadata: LibriSpeech's folder in --root")
    add("--noise", default="wham_noise", metavar="NAME", help="with --metadata: the noise's folder in --root")
    add("--rate", type=int, choices=(8000, 16000), default=16000, help="with --metadata: in Hz (default: 16000)")
    add("--mode", choices=("min", "max"), default="min", help="with --metadata (default: min)")


def _librimix(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.librimix import LibriMixScan
    from metis_lightning.data.corpora.librimix_on_the_fly import OnTheFlyMixtureScan

    if not options.metadata:
        return LibriMixScan(mix=options.mix, librispeech=options.librispeech, root=options.root)
    return OnTheFlyMixtureScan(
        mix=options.mix,
        librispeech=options.librispeech or Path(options.root) / options.speech,
        root=options.root,
        metadata=tuple(options.metadata),
        speech=options.speech,
        noise=options.noise,
        sample_rate=options.rate,
        mode=options.mode,
    )


def _dns(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.dns import DnsScan

    return DnsScan(options.root, options.check == "decode")


def _librispeech_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subsets", nargs="+", default=[], metavar="S", help="only these (default: all)")


def _librispeech(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.librispeech import LibriSpeechScan

    return LibriSpeechScan(options.root, tuple(options.subsets), options.check == "decode")


def _vctk(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.vctk import VctkScan

    return VctkScan(options.root, options.check == "decode")


def _lip_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--mouths",
        type=Path,
        metavar="DIR",
        help="crop the mouth of each face into DIR/ID.mp4 (needs the extra `lips`); what is there stays",
    )
    add("--features", type=Path, metavar="DIR", help="then write each mouth's features (T, 768) into DIR/ID.npy")
    add(
        "--encoder", type=Path, metavar="FILE", help="with --features: Auto-AVSR's weights of visual speech recognition"
    )
    add("--device", default="cpu", metavar="D", help="with --features: cpu, cuda, cuda:1, … (default: cpu)")


def _lrs3_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layout",
        choices=("auto", "raw", "avhubert", "autoavsr"),
        default="auto",
        help="as given out, or by AV-HuBERT's or Auto-AVSR's preparation (default: auto, by their lists)",
    )
    _lip_options(parser)


def _video_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--list",
        required=True,
        type=Path,
        metavar="FILE",
        help="jsonl, or csv with a header: video, audio, text, speaker, id, split, language, lips; paths below --root",
    )
    _lip_options(parser)


def _lrs3(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.lrs import lrs3_scan

    return lrs3_scan(str(options.root), options.check == "decode", _mouths(options), options.layout)


def _lrs2(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.lrs import lrs2_scan

    return lrs2_scan(str(options.root), options.check == "decode", _mouths(options))


def _video(options: argparse.Namespace) -> CorpusScan:
    from metis_lightning.data.corpora.custom_video import CustomVideoScan

    return CustomVideoScan(str(options.root), options.check == "decode", _mouths(options), options.list)


def _mouths(options: argparse.Namespace) -> str | None:
    """Return the folder of mouths; what will be needed is asked for before the work begins."""
    from metis_lightning.data.media.mouths import require_face_mesh
    from metis_lightning.data.media.video import require_av

    require_av()
    if options.mouths is not None:
        require_face_mesh()
    if (options.features is None) != (options.encoder is None):
        raise UserError("give --features and --encoder together: the folder, and the weights that make what is in it")
    if options.encoder is not None and not options.encoder.is_file():
        raise UserError(f"--encoder {options.encoder}: no such weights; download Auto-AVSR's model")
    return None if options.mouths is None else str(options.mouths)


def _lip_features(options: argparse.Namespace) -> None:
    if options.features is None:
        return
    from metis_lightning.tokens.visual.auto_avsr import AutoAvsrFeatures
    from metis_lightning.tokens.visual.lip_features import FeatureOptions, LipCorpus, write_lip_features

    corpus = LipCorpus(options.out, str(options.root), options.mouths)
    how = FeatureOptions(options.features, options.device, options.shard)
    count = write_lip_features(corpus, AutoAvsrFeatures(options.encoder), how)
    print(f"lip features: {count:,} written to {options.features}")


def _no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


CORPORA = {
    "emilia": Corpus(
        "Emilia and Emilia-YODAS: tars, or lists beside unpacked folders",
        "--root /data/Emilia-Dataset --out emilia.jsonl --workers 8",
        _emilia_options,
        _emilia,
    ),
    "librimix": Corpus(
        "Libri2Mix, Libri3Mix, …: on disk, or made from LibriSpeech and WHAM! when they are read",
        "--root /data/Libri2Mix/wav16k/min --librispeech /data/LibriSpeech --out librimix.jsonl",
        _librimix_options,
        _librimix,
    ),
    "dns": Corpus(
        "DNS Challenge 2020: clean speech, and noisy-clean pairs",
        "--root /data/DNS-Challenge/datasets --out dns.jsonl",
        _no_options,
        _dns,
    ),
    "librispeech": Corpus(
        "LibriSpeech",
        "--root /data/LibriSpeech --out librispeech.jsonl",
        _librispeech_options,
        _librispeech,
    ),
    "lrs3": Corpus(
        "LRS3, as given out or prepared for AV-HuBERT or Auto-AVSR",
        "--root /data/lrs3 --out lrs3.jsonl --mouths mouths --features lips --encoder vsr_trlrs3_base.pth --workers 8",
        _lrs3_options,
        _lrs3,
        _lip_features,
    ),
    "lrs2": Corpus(
        "LRS2, as given out or prepared for Auto-AVSR",
        "--root /data/mvlrs_v1 --out lrs2.jsonl --mouths mouths",
        _lip_options,
        _lrs2,
        _lip_features,
    ),
    "video": Corpus(
        "talking faces of your own, by a list",
        "--root /data/faces --list clips.csv --out faces.jsonl --mouths mouths",
        _video_options,
        _video,
        _lip_features,
    ),
    "vctk": Corpus("VCTK 0.92 or 0.80", "--root /data/VCTK-Corpus-0.92 --out vctk.jsonl", _no_options, _vctk),
}
"""The corpora, by the name of their file in `data/`."""


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 0 <= I < N, such as 0/4")
    return int(index), int(count)


VERB = Verb(
    name="prepare",
    about="list a corpus as a manifest",
    examples=tuple(f"{name} {corpus.example}" for name, corpus in CORPORA.items()),
    add_options=add_prepare_options,
    run="metis_lightning.cli.prepare:run_prepare",
    note="python -m metis_lightning prepare tokens --help tells how tokens are stored for training.",
)
