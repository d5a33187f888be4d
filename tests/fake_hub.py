"""A small Hugging Face Hub: folders served over HTTP, with enough of the hub's API for the real huggingface_hub client.

    python tests/fake_hub.py --root DIR --port 8010
    SPLATGATE__MODELS__ENDPOINT=http://127.0.0.1:8010 splatgate models fetch TRELLIS-image-large

DIR holds OWNER/NAME/files, as repositories are named. A repository has one commit, made from its content; a request
for any other 40 hex digits is served as that one, so that a manifest's pinned commits can be asked for. Large files
(.safetensors, .onnx) go through a redirect, as the hub's go to its storage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".onnx")
CHUNK = 1 << 16


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str
    authorization: str


@dataclass(frozen=True)
class Entry:
    """A file of a repository: git's id of its content, and its sha256 where it is stored as a large file."""

    path: str
    bytes: int
    blob: str
    sha256: str


class FakeHub(ThreadingHTTPServer):
    """requests: all that came. gated: repositories that need `token`. cuts: bytes after which the next downloads of
    large files break off, one number a download. stall_after: large files stop there until `go_on` is set.
    nonsense: what every listing is answered with instead."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.root = root
        self.requests: list[Request] = []
        self.gated: set[str] = set()
        self.token = "hf_accepted"
        self.cuts: list[int] = []
        self.stall_after: int | None = None
        self.go_on = Event()
        self.nonsense = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of the play."""

    def entries(self, repository: str) -> list[Entry]:
        folder = self.root / repository
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [_entry(path, path.relative_to(folder).as_posix(), path.stat().st_mtime_ns) for path in files]

    def commit(self, repository: str) -> str:
        listing = "".join(f"{entry.blob} {entry.path}\n" for entry in self.entries(repository))
        return hashlib.sha1(listing.encode()).hexdigest()


@cache
def _entry(path: Path, name: str, _changed: int) -> Entry:
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return Entry(name, size, blob.hexdigest(), sha256.hexdigest() if path.suffix in LARGE else "")


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(
            Request(self.command, path, self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        )
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self._listing(found[1], found[2] or "revision", found[3] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
            self._send(self.server.root / found[1] / found[2])
        else:
            self._refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _listing(self, repository: str, kind: str, revision: str) -> None:
        if not self._known(repository, revision):
            return
        entries = self.server.entries(repository)
        if kind == "tree":
            self._json([_leaf(entry) for entry in entries])
            return
        siblings = [_sibling(entry) for entry in entries]
        commit = revision if _is_commit(revision) else self.server.commit(repository)
        gated = "auto" if repository in self.server.gated else False
        self._json({"id": repository, "sha": commit, "gated": gated, "private": False, "siblings": siblings})

    def _resolve(self, repository: str, revision: str, path: str) -> None:
        if not self._known(repository, revision):
            return
        if repository in self.server.gated and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            return
        entry = next((entry for entry in self.server.entries(repository) if entry.path == path), None)
        if entry is None:
            self._refuse(404, "EntryNotFound")
            return
        commit = revision if _is_commit(revision) else self.server.commit(repository)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.sha256 or entry.blob}"'}
        if not entry.sha256:
            self._send(self.server.root / repository / path, headers)
            return
        headers |= {"X-Linked-Size": str(entry.bytes), "X-Linked-Etag": f'"{entry.sha256}"'}
        self._head(302, {**headers, "Location": f"/storage/{repository}/{path}", "Content-Length": "0"})

    def _known(self, repository: str, revision: str) -> bool:
        if not (self.server.root / repository).is_dir():
            self._refuse(401, "RepoNotFound")
            return False
        if revision != "main" and not _is_commit(revision):
            self._refuse(404, "RevisionNotFound")
            return False
        return True

    def _send(self, path: Path, headers: dict[str, str] | None = None) -> None:
        size, asked = path.stat().st_size, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if start >= size > 0:
            self._head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(size - start), **(headers or {})}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._head(206 if asked else 200, headers)
        if self.command == "GET":
            self._pour(path, start)

    def _pour(self, path: Path, start: int) -> None:
        large = path.suffix in LARGE
        cut = self.server.cuts.pop(0) if large and self.server.cuts else None
        sent = 0
        with path.open("rb") as stream:
            stream.seek(start)
            while chunk := stream.read(CHUNK):
                if cut is not None and sent >= cut:
                    self.close_connection = True
                    return
                if large and self.server.stall_after is not None and sent >= self.server.stall_after:
                    self.server.go_on.wait()
                self.wfile.write(chunk)
                sent += len(chunk)

    def _json(self, document: object) -> None:
        body = self.server.nonsense or json.dumps(document).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _sibling(entry: Entry) -> dict[str, object]:
    large = {"lfs": {"sha256": entry.sha256, "size": entry.bytes, "pointerSize": 134}} if entry.sha256 else {}
    return {"rfilename": entry.path, "size": entry.bytes, "blobId": entry.blob, **large}


def _leaf(entry: Entry) -> dict[str, object]:
    large = {"lfs": {"oid": entry.sha256, "size": entry.bytes, "pointerSize": 134}} if entry.sha256 else {}
    return {"type": "file", "path": entry.path, "size": entry.bytes, "oid": entry.blob, **large}


@contextmanager
def serving(root: Path) -> Iterator[FakeHub]:
    """A hub of the folder on a free port, for the length of the block."""
    hub = FakeHub(root)
    thread = Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        hub.shutdown()
        hub.server_close()
        thread.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(description="A small Hugging Face Hub that serves a folder.")
    parser.add_argument("--root", type=Path, required=True, help="Folder with OWNER/NAME/files.")
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--gated", action="append", default=[], help="OWNER/NAME that needs the token hf_accepted.")
    options = parser.parse_args()
    hub = FakeHub(options.root, options.port)
    hub.gated = set(options.gated)
    print(f"serving {options.root} at {hub.url}", flush=True)
    hub.serve_forever()


if __name__ == "__main__":
    main()
