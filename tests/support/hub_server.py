"""A local server that implements the parts of Hugging Face's and ModelScope's APIs that downloads use, with faults on
demand.

It serves one folder as the repository `tiny/model` at commit `COMMIT`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPO = "tiny/model"
COMMIT = "c" * 40


@dataclass
class HubServer:
    """The server's behaviour, and the requests it received.

    Attributes:
        cuts: number of responses with weights that end after `cut_after` bytes of their body.
        status: status of every response with a file; None means 200 or 206.
        gated: whether the repository has terms to accept.
        wrong: names of files whose last byte is changed.
        token: the required token, if any.
        announced: sizes that the listing reports instead of the true ones; None to report no size.
        unchecked: names of files whose checksum the listing does not report.
        sent: contents that are sent instead of the real ones.
        streamed: whether responses omit their length.
        redirect_to: address of the server to which every request is redirected.
        requests: (path, Range header, Authorization header) of every request for a file.
        authorizations: the Authorization headers of all requests.
    """

    folder: Path
    url: str = ""
    cuts: int = 0
    cut_after: int = 50_000
    status: int | None = None
    gated: bool = False
    wrong: frozenset[str] = frozenset()
    token: str | None = None
    announced: dict[str, int | None] = field(default_factory=dict)
    unchecked: frozenset[str] = frozenset()
    sent: dict[str, bytes] = field(default_factory=dict)
    streamed: bool = False
    redirect_to: str | None = None
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)

    def names(self) -> list[str]:
        """The repository's files."""
        return sorted(path.name for path in self.folder.iterdir())


@contextmanager
def serving(folder: Path) -> Iterator[HubServer]:
    """Serve `folder` for the duration of a block."""
    hub = HubServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.authorizations.add(self.headers.get("authorization"))
            if hub.redirect_to is not None:
                self.send_response(302)
                self.send_header("location", hub.redirect_to + self.path)
                self.send_header("content-length", "0")
                self.end_headers()
            elif "/resolve/" in path:
                _send_file(self, hub, path)
            elif path == f"/api/models/{REPO}" or path.startswith(f"/api/models/{REPO}/revision/"):
                _send_json(self, _hugging_face(hub))
            elif path == f"/api/v1/models/{REPO}/repo/files":
                _send_json(self, _modelscope(hub))
            elif path == f"/api/v1/models/{REPO}":
                _send_json(self, {"Data": {"License": "apache-2.0"}})
            else:
                self.send_error_json(404, "RepoNotFound")

        do_HEAD = do_GET

        def send_error_json(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("x-error-code", code)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _hugging_face(hub: HubServer) -> dict[str, Any]:
    siblings = []
    for name in hub.names():
        content = (hub.folder / name).read_bytes()
        size = hub.announced.get(name, len(content))
        one: dict[str, Any] = {"rfilename": name, "size": size}
        if name.endswith((".safetensors", ".gguf")) and name not in hub.unchecked:
            one["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        elif name not in hub.unchecked:
            one["blobId"] = _git_oid(content)
        siblings.append(one)
    return {
        "id": REPO, "modelId": REPO, "sha": COMMIT, "gated": "manual" if hub.gated else False, "private": False,
        "cardData": {"license": "apache-2.0"}, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0,
    }  # fmt: skip


def _modelscope(hub: HubServer) -> dict[str, Any]:
    files = [
        {
            "Path": name, "Type": "blob", "Size": hub.announced.get(name, (hub.folder / name).stat().st_size),
            "Sha256": "" if name in hub.unchecked else hashlib.sha256((hub.folder / name).read_bytes()).hexdigest(),
        }
        for name in hub.names()
    ]  # fmt: skip
    return {"Code": 200, "Data": {"Files": files}}


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _send_json(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _send_file(handler: Any, hub: HubServer, path: str) -> None:
    name, asked = path.rpartition("/")[2], handler.headers.get("range")
    hub.requests.append((name, asked, handler.headers.get("authorization")))
    if hub.token is not None and handler.headers.get("authorization") != f"Bearer {hub.token}":
        handler.send_error_json(403, "GatedRepo")
        return
    if hub.status is not None:
        handler.send_error_json(hub.status, "")
        return
    content = hub.sent.get(name) or (hub.folder / name).read_bytes()
    if name in hub.wrong:
        content = content[:-1] + bytes([content[-1] ^ 1])
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
    if start and start >= len(content):
        handler.send_error_json(416, "")
        return
    handler.send_response(206 if asked else 200)
    if asked:
        handler.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if hub.streamed:
        handler.close_connection = True
        handler.send_header("connection", "close")
    else:
        handler.send_header("content-length", str(len(content) - start))
    handler.end_headers()
    if hub.cuts and name.endswith(".safetensors"):
        hub.cuts -= 1
        handler.wfile.write(content[start : start + hub.cut_after])
        handler.wfile.flush()
        handler.close_connection = True
        return
    with contextlib.suppress(ConnectionError):  # the client has closed a response that is too long
        handler.wfile.write(content[start:])
