"""A model hub on this machine: repositories are folders, each at one commit."""

from __future__ import annotations

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


@contextmanager
def serving(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """Serve repositories at `Hub.url` within the block."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._send(body_too=False)

        def do_GET(self) -> None:
            self._send(body_too=True)

        def _send(self, body_too: bool) -> None:
            found = hub.answer(self.path)
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
                if file in hub.broken:
                    self.wfile.write(body[: len(body) // 2])
                    self.connection.close()
                    return
                hub.sent[file] += 1
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
