"""Lists Emilia and Emilia-YODAS as published: WebDataset tars, or the older lists beside unpacked folders.

Current: `Emilia/EN/EN-B000000.tar`, `Emilia-YODAS/EN/EN-B000000.tar`; an older revision lacks the first folder. A tar
holds `ID.json` and `ID.mp3` (24 kHz), in any order; audio is read from inside it, at the manifest's offsets. Legacy
(OpenDataLab): `EN/EN_B00000.jsonl`, whose `wav` names a file of the unpacked `EN_B00000.tar.gz`.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, cast

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard, manifest_row
from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.inspection import inspect_audio
from metis_lightning.data.media.locations import relative_path
from metis_lightning.data.media.storage import Storage, is_hidden, read_bytes
from metis_lightning.errors import UserError
from metis_lightning.files import digest64, printable
from metis_lightning.safe_parsing import finite, load_json

AUDIO_ENTRIES = (".mp3", ".wav", ".flac", ".ogg", ".opus")

_BLOCK = 512
_MOST_JSON_BYTES = 1 << 20
_MOST_AUDIO_BYTES = 200 << 20
_LIST = re.compile(r"[A-Za-z]{2}_B\d+\.jsonl")


@dataclass(frozen=True)
class EmiliaScan(CorpusScan):
    """Lists the tars and the legacy lists at any level below `root`, a folder or URL.

    `languages` are by the start of a file's name, e.g. ("EN", "DE"); none means all. `decode` as in `inspect_audio`.
    """

    root: str
    languages: tuple[str, ...] = ()
    decode: bool = True
    layout = "*/EN/EN-B000000.tar, or EN/EN_B00000.jsonl with unpacked folders"

    def shards(self) -> Sequence[Shard]:
        """Return a piece for each tar and each legacy list."""
        stamps = Storage(self.root).files((".tar", ".jsonl", *AUDIO_ENTRIES))
        languages = [language.upper() for language in self.languages]
        # A tar or list begins with its language: DE/DE_B00001.jsonl.
        names = {path: PurePosixPath(path).name for path in stamps if path.endswith((".tar", ".jsonl"))}
        chosen = [path for path, name in names.items() if name.endswith(".tar") or _LIST.fullmatch(name)]
        # The files of a legacy list's folder are part of its stamp, so that a repaired one is noticed.
        audio = {path: 0 for path in chosen if path.endswith(".jsonl")}
        for path, stamp in stamps.items() if audio else ():
            for parent in PurePosixPath(path).parents:
                if (listed := f"{parent}.jsonl") in audio:
                    audio[listed] ^= digest64(f"{printable(path)} {stamp}")
        wanted = [path for path in chosen if not languages or names[path][:2].upper() in languages]
        return [Shard(path, f"{stamps[path]}-{audio.get(path, 0)}") for path in wanted]

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        """Yield the utterances of a tar or a list."""
        if shard.name.endswith(".jsonl"):
            yield from self._scan_list(shard.name)
            return
        with Storage(self.root).open(shard.name) as file:
            yield from _TarScan(shard.name, file, self.decode).rows()

    def _scan_list(self, name: str) -> Iterator[Row | Fault]:
        storage, archive = Storage(self.root), name.removesuffix(".jsonl") + ".tar.gz"
        for number, line in enumerate(read_bytes(storage.path(name)).split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                fields = _parse_fields(line)
                try:
                    # The list has it relative to its own folder.
                    path = str(PurePosixPath(name).parent / relative_path(fields.get("wav"), name))
                except UserError as error:
                    raise AudioFault("wrong field", str(error)) from error
                if storage.exists(path):
                    yield _row(fields, path, read_bytes(storage.path(path)), name, self.decode)
                elif number == 1 and storage.exists(archive):
                    # Nothing inside a gzip can be read without reading all that is before it.
                    yield Fault(archive, "packed archive", "unpack it in its folder: tar xzf", archive=True)
                    return
                else:
                    raise AudioFault("missing file", path)
            except AudioFault as fault:
                yield Fault(f"{name}:{number}", fault.kind, fault.detail)


class _TarScan:
    """One pass over a tar: each half of an utterance waits for the other, wherever that is."""

    def __init__(self, name: str, file: IO[bytes], decode: bool) -> None:
        self.name, self.file, self.decode = name, file, decode
        self.texts: dict[str, dict[str, Any]] = {}
        self.audio: dict[str, dict[str, Any]] = {}
        self.seen: set[str] = set()
        self.faulty: set[str] = set()

    def rows(self) -> Iterator[Row | Fault]:
        """Yield what the tar holds, and what is wrong with it."""
        try:
            with tarfile.open(fileobj=cast(IO[bytes], _Headers(self.file)), mode="r:") as tar:
                for member in tar:
                    if not member.isdir():
                        yield from self._member(member)
                    # The list of all members would grow with the tar.
                    tar.members = []  # type: ignore[attr-defined]
                # tarfile takes a damaged or missing header for the end; the end mark is a block of zeros.
                self.file.seek(tar.offset)
                if self.file.read(_BLOCK) != bytes(_BLOCK):
                    raise EOFError(f"no end of archive at byte {tar.offset}")
        except (tarfile.TarError, EOFError) as error:
            yield Fault(self.name, "broken archive", f"{error}; download it again", archive=True)
        for key in sorted(self.texts.keys() | self.audio.keys()):
            detail = "json without audio" if key in self.texts else "audio without json"
            yield Fault(f"{self.name}/{key}", "missing pair", detail)

    def _member(self, member: tarfile.TarInfo) -> Iterator[Row | Fault]:
        where = f"{self.name}/{member.name}"
        try:
            name = PurePosixPath(relative_path(member.name, where))
        except UserError:
            yield Fault(where, "unsafe member name")
            return
        if any(map(is_hidden, name.parts)):
            return
        key, suffix = str(name.with_suffix("")), name.suffix.lower()
        half = key + ("" if suffix == ".json" else ".audio")
        if not member.isreg() or member.issparse():
            yield Fault(where, "not a plain file")
        elif suffix not in (".json", *AUDIO_ENTRIES):
            yield Fault(where, "neither json nor audio")
        elif half in self.seen:
            yield Fault(where, "second member of this name")
        else:
            self.seen.add(half)
            # The other half of a faulty utterance is no second fault.
            if key not in self.faulty:
                yield from self._half(member, key, suffix, where)

    def _half(self, member: tarfile.TarInfo, key: str, suffix: str, where: str) -> Iterator[Row | Fault]:
        # A header may claim any size; what it claims would be read at once.
        most = _MOST_JSON_BYTES if suffix == ".json" else _MOST_AUDIO_BYTES
        try:
            if member.size > most:
                raise AudioFault("member too large", f"{member.size:,} bytes; at most {most:,} are read")
            if suffix == ".json":
                fields = self.texts[key] = _parse_fields(self._bytes(member.offset_data, member.size))
                if fields["id"] != PurePosixPath(key).name:
                    raise AudioFault("id is not the file's name", repr(fields["id"]))
            else:
                # Its bytes wait on the disk: all audio may stand before all texts.
                self.audio[key] = {"path": self.name, "offset": member.offset_data, "size": member.size}
            if key in self.texts and key in self.audio:
                location = self.audio.pop(key)
                data = self._bytes(location["offset"], location["size"])
                yield _row(self.texts.pop(key), location, data, self.name, self.decode)
        except AudioFault as fault:
            self.texts.pop(key, None)
            self.audio.pop(key, None)
            self.faulty.add(key)
            yield Fault(where, fault.kind, fault.detail)

    def _bytes(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError(f"the member at byte {offset} ends early")
        return data


class _Headers:
    """A tar as tarfile reads it: headers alone, none of which may claim a size that fills the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MOST_JSON_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)


def _parse_fields(data: bytes) -> dict[str, Any]:
    try:
        fields = load_json(data)
    except ValueError as error:
        raise AudioFault("json is not UTF-8" if "UTF-8" in str(error) else "not json", str(error)) from error
    if not isinstance(fields, dict):
        raise AudioFault("not json", "expected an object")
    # Emilia-YODAS calls it _id.
    fields["id"] = fields.get("id", fields.get("_id"))
    return fields


def _row(fields: dict[str, Any], path: object, data: bytes, name: str, decode: bool) -> Row:
    """Return the line of an utterance whose audio is `data`, in a tar or list called `name`."""
    listed, text = fields.get("duration"), fields.get("text")
    seconds = finite(listed)
    if isinstance(listed, int | float) and seconds is None:
        raise AudioFault("wrong field", "the duration is no finite number")
    text = text.strip() if isinstance(text, str) else text
    is_yodas = "_id" in fields or "yodas" in name.lower()
    source, terms = ("Emilia-YODAS", "CC-BY-4.0") if is_yodas else ("Emilia", "CC-BY-NC-4.0")
    info = inspect_audio(data, decode, seconds)
    copied = {key: fields.get(key) for key in ("speaker", "language", "dnsmos")}
    return manifest_row(fields["id"], path, info, text=text, split="train", source=source, license=terms, **copied)
