"""A hub on 127.0.0.1: repositories served from folders over its HTTP API, with faults by switch.

Written after what huggingface_hub 2.4 asks for: a revision's commit and files, the tree of a
commit, whether a gated repository may be read, and files with their checksums as etags. Large
files are redirected to another address, as the hub sends them to its CDN.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")
"""Endings of the files that the hub keeps apart from git, under their SHA-256."""
_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|auth-check)(?:/([^/]+))?)?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BLOB = re.compile(r"/cdn/([0-9a-f]{64})/(.+)")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request: its method, path and range, the status of the reply, bytes of body sent."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


@dataclass(kw_only=True)
class Repo:
    """A repository: its only commit, the files of it, its branches and tags.

    Attributes:
        files: bytes by path.
        refs: names that stand for `commit`.
        gated: whether only the server's token may read files.
    """

    commit: str
    files: dict[str, bytes]
    refs: set[str]
    gated: bool = False


@dataclass(kw_only=True)
class Faults:
    """What goes wrong; all by the last part of a file's path.

    Attributes:
        cut: bodies end after so many bytes, one number a GET, the first first.
        gone: files that are listed and not found.
        altered: files whose last byte differs, under the etag of the right ones.
        wait: seconds before a file's body is sent.
        silent: seconds before anything of the API is answered.
        echo: refuse everything with status 403 and the client's token in the message.
    """

    cut: dict[str, list[int]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    wait: dict[str, float] = field(default_factory=dict)
    silent: float = 0.0
    echo: bool = False


class HubServer(AbstractContextManager["HubServer"]):
    """The server; use it as a context manager.

    Attributes:
        token: what a client has to send for gated repositories.
        faults: read at each request.
        seen: every request that was answered, in order.
        most_at_once: bodies of large files that were sent at the same time.
    """

    token = "hf_loopback"  # noqa: S105  (of this server alone)

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults = Faults()
        self.seen: list[Asked] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables with which another process uses this hub, and a cache in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def add(
        self,
        name: str,
        folder: Path,
        *,
        kind: str = "models",
        refs: tuple[str, ...] = ("main",),
        gated: bool = False,
    ) -> str:
        """Serve a folder as a repository of one commit; return that commit.

        `kind` is ``models`` or ``datasets``. The commit depends on names and contents alone.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        listing = "".join(f"{path} {checksum(path, data)}\n" for path, data in files.items())
        commit = hashlib.sha1(listing.encode()).hexdigest()  # noqa: S324  (as git does)
        self.repos[kind, name] = Repo(commit=commit, files=files, refs=set(refs), gated=gated)
        return commit

    def asked(self, name: str, method: str = "GET") -> list[Asked]:
        """Return the requests for a file of this name that were sent a body (or a head)."""
        return [
            one
            for one in self.seen
            if one.method == method
            and Path(one.path).name == name
            and one.status in (200, 206)
            and not one.path.startswith("/api/")
        ]

    def sent(self, name: str) -> int:
        """Return how many bytes of a file's contents were sent, over all requests."""
        return sum(one.sent for one in self.asked(name))

    def names(self) -> set[str]:
        """Return the names of all files of which a body was sent."""
        files = [
            one for one in self.seen if one.method == "GET" and not one.path.startswith("/api")
        ]
        return {Path(one.path).name for one in files if one.status in (200, 206)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def checksum(path: str, data: bytes) -> str:
    """Return the etag of a file: SHA-256 of a large one, git's SHA-1 of another."""
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324  (as git does)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; anything else is a fault of this file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, sent = urlsplit(self.path).path, self.headers["authorization"] or ""
        if self.hub.faults.echo:
            self._refuse(403, "", f"no leave for {sent.removeprefix('Bearer ')}")
        elif blob := _BLOB.fullmatch(path):
            self._blob(blob[1], unquote(blob[2]))
        elif api := _API.fullmatch(path):
            self.hub.stopped.wait(self.hub.faults.silent)
            self._api(api[1], api[2], api[3], unquote(api[4] or "main"))
        elif file := _FILE.fullmatch(path):
            kind = "datasets" if file[1] else "models"
            self._resolve(kind, file[2], unquote(file[3]), unquote(file[4]))
        else:
            self._refuse(404, "", "no such address")

    def _find(self, kind: str, name: str, revision: str) -> Repo | None:
        """Return the repository if it has this revision; otherwise send the refusal."""
        repo = self.hub.repos.get((kind, name))
        if repo is None:  # the hub does not say whether a private one exists
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif revision not in (repo.commit, *repo.refs):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _may_read(self, repo: Repo) -> bool:
        sent = self.headers["authorization"]
        if not repo.gated or sent == f"Bearer {self.hub.token}":
            return True
        self._refuse(401 if sent is None else 403, "GatedRepo", "Access to model is restricted.")
        return False

    def _api(self, kind: str, name: str, what: str | None, revision: str) -> None:
        repo = self._find(kind, name, "main" if what == "auth-check" else revision)
        if repo is None or (what == "auth-check" and not self._may_read(repo)):
            return
        if what == "tree":
            self._json([_entry(path, data) for path, data in repo.files.items()])
            return
        siblings = [{"rfilename": path, "size": len(data)} for path, data in repo.files.items()]
        gated = "manual" if repo.gated else False
        self._json({"id": name, "sha": repo.commit, "gated": gated, "siblings": siblings})

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self._find(kind, name, revision)
        if repo is None or not self._may_read(repo):
            return
        commit = {"X-Repo-Commit": repo.commit}
        if path not in repo.files or Path(path).name in self.hub.faults.gone:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        data = repo.files[path]
        etag = checksum(path, data)
        if path.endswith(LARGE):
            # An address at another host: the client reads the headers here, and the file there.
            port = self.hub.url.rpartition(":")[2]
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            where = {"Location": f"http://localhost:{port}/cdn/{etag}/{path}"}
            self._start(302, {**commit, **linked, **where})
        else:
            self._body(path, data, {**commit, "ETag": f'"{etag}"'})

    def _blob(self, etag: str, path: str) -> None:
        """Send a large file, as a CDN does: to whoever has its address, and with no token."""
        if "authorization" in self.headers:
            self._refuse(400, "", "a token was sent to another host")
            return
        data = next(
            data
            for repo in self.hub.repos.values()
            for name, data in repo.files.items()
            if name == path and checksum(name, data) == etag
        )
        with self.hub.lock:
            self.hub.at_once += 1
            self.hub.most_at_once = max(self.hub.most_at_once, self.hub.at_once)
        try:
            self._body(path, data, {"ETag": f'"{etag}"'})
        finally:
            with self.hub.lock:
                self.hub.at_once -= 1

    def _body(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        """Send a file, or the rest of one, as far as the faults let it."""
        faults, name, asked = self.hub.faults, Path(path).name, self.headers["range"]
        if name in faults.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        rest = data[start:]
        part = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if asked else {}
        whole = {**headers, **part, "Content-Length": str(len(rest))}
        if self.command == "HEAD":
            self._start(200, whole)
            return
        cuts = faults.cut.get(name)
        sent = rest[: cuts.pop(0)] if cuts else rest
        self._start(206 if asked else 200, whole, sent=len(sent))
        self.hub.stopped.wait(faults.wait.get(name, 0.0))
        self.wfile.write(sent)
        self.close_connection = len(sent) < len(rest)

    def _json(self, found: object) -> None:
        body = json.dumps(found).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._start(200, headers, sent=len(body))
        self.wfile.write(body)

    def _refuse(
        self, status: int, code: str, message: str, more: dict[str, str] | None = None
    ) -> None:
        why = {"X-Error-Code": code} if code else {}
        self._start(status, {**why, "X-Error-Message": message, **(more or {})})

    def _start(self, status: int, headers: dict[str, str], *, sent: int = 0) -> None:
        """Count the request, before its asker can know of the reply, and send the head of one."""
        one = Asked(
            method=self.command,
            path=urlsplit(self.path).path,
            range=self.headers["range"],
            status=status,
            sent=sent,
        )
        with self.hub.lock:
            self.hub.seen.append(one)
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """Return a file as the hub's tree lists it; a large one with git's pointer to it."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    if not path.endswith(LARGE):
        return {**entry, "oid": checksum(path, data)}
    sha = checksum(path, data)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {len(data)}\n"
    lfs = {"oid": sha, "size": len(data), "pointerSize": len(pointer)}
    return {**entry, "oid": checksum("pointer", pointer.encode()), "lfs": lfs}
