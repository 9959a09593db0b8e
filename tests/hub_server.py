"""A model hub on this machine: repositories are folders, each at one commit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What is served, and what was asked for.

    broken: paths whose content is sent by half until they are taken out.
    """

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = repositories
        self.broken: set[str] = set()
        self.sent: Counter[str] = Counter()
        self.url = ""
        self.owner = "me"
        self.created: list[dict[str, object]] = []
        self.stored: dict[str, bytes] = {}

    def post(self, path: str, body: bytes) -> object:
        """Take what an upload sends; None if the repository is not the owner's.

        Files of more than 1,000 bytes go the way of large ones: they are put by their SHA-256, and then named.
        """
        words = unquote(urlparse(path).path).strip("/").split("/")
        if words[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            if asked.get("organization", self.owner) != self.owner:
                return None
            self.created.append(asked)
            return {"url": f"{self.url}/{self.owner}/{asked['name']}"}
        if words[-1] == "batch":
            objects = json.loads(body)["objects"]
            put = {each["oid"]: {"upload": {"href": f"{self.url}/put/{each['oid']}"}} for each in objects}
            return {"transfer": "basic", "objects": [{**each, "actions": put[each["oid"]]} for each in objects]}
        if words[:2] == ["api", "validate-yaml"]:
            return {"errors": [], "warnings": []}
        if "preupload" in words:
            files = json.loads(body)["files"]
            modes = {each["path"]: "lfs" if each["size"] > 1000 else "regular" for each in files}
            return {
                "files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            }
        folder = self.repositories["/".join(words[2:4])]
        folder.mkdir(parents=True, exist_ok=True)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                (folder / value["path"]).write_bytes(self.stored[value["oid"]])
        return {"commitUrl": f"{self.url}/{'/'.join(words[2:4])}/commit/{COMMIT}", "commitOid": COMMIT}

    def answer(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """Return the body and the headers for a path; None if there is nothing."""
        words = unquote(urlparse(path).path).strip("/").split("/")
        api = words[:2] == ["api", "models"]
        name = "/".join(words[2:4] if api else words[:2])
        folder = self.repositories.get(name)
        if folder is None:
            return None
        if api:
            return self._listing(folder, name, words[4:])
        file = folder.joinpath(*words[4:])
        if not file.is_file():
            return None
        return file.read_bytes(), {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}

    def _listing(self, folder: Path, name: str, words: list[str]) -> tuple[bytes, dict[str, str]] | None:
        if words[:1] == ["tree"]:
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            return json.dumps([entry(file, folder) for file in files]).encode(), {}
        if words[:1] == ["revision"] and words[1] not in ("main", "v1", COMMIT):
            return None
        return json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode(), {}


def entry(file: Path, folder: Path) -> dict[str, object]:
    size, sha = file.stat().st_size, digest(file)
    lfs = {"oid": sha, "size": size, "pointerSize": 1}
    return {"type": "file", "path": file.relative_to(folder).as_posix(), "size": size, "oid": sha[:40], "lfs": lfs}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub that `serving` set."""

    hub: Hub

    def do_HEAD(self) -> None:
        self._send(body_too=False)

    def do_GET(self) -> None:
        self._send(body_too=True)

    def _send(self, body_too: bool) -> None:
        found = self.hub.answer(self.path)
        if found is None:
            missing_file = "/resolve/" in self.path
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if missing_file else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, headers = found
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body_too:
            file = self.path.split(f"/resolve/{COMMIT}/")[-1]
            if file in self.hub.broken:
                self.wfile.write(body[: len(body) // 2])
                self.connection.close()
                return
            self.hub.sent[file] += 1
            self.wfile.write(body)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self._answer(self.hub.post(self.path, self._chunks() if chunked else self.rfile.read(length)))

    def do_PUT(self) -> None:
        self.hub.stored[self.path.rsplit("/", 1)[1]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, content: object) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(401 if content is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """Serve repositories at `Hub.url` within the block."""
    hub = Hub(repositories)

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
