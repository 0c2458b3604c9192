"""A local S3 server (moto), and one that answers every request with an error."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest

SECRET = "secret-of-the-test-bucket"


class S3Server:
    """A running server. Any credentials are accepted until `refuse()`."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer  # here, because it takes seconds, and every test loads conftest

        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        host, port = self._moto.get_host_and_port()
        self.address = f"http://{host}:{port}"

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{uuid4().hex}"
        self._request("PUT", name)
        return name

    def put(self, path: str, data: bytes) -> None:
        """Upload an object as other tools do; `path` is bucket and key."""
        self._request("PUT", path, data)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse the test's credentials meanwhile."""
        self._request("POST", "moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self._request("POST", "moto-api/reset-auth", b"inf")

    def stop(self) -> None:
        """Stop the server; its address refuses connections afterwards."""
        self._moto.stop()

    def environ(self) -> dict[str, str]:
        """The variables with which a process reaches this server."""
        return environ(self.address)

    def _request(self, method: str, path: str, data: bytes = b"") -> None:
        headers = {"content-type": "application/octet-stream"}  # urllib would call it a form
        request = urllib.request.Request(f"{self.address}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


def environ(address: str) -> dict[str, str]:
    """The variables with which a process reaches the server at this address."""
    return {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": address,
    }


@contextmanager
def failing(status: int, code: str) -> Iterator[str]:
    """The address of a server that answers every request with this status and S3 error code."""
    handler = type("Handler", (_Failing,), {"status": status, "code": code})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Failing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status: int
    code: str

    def log_message(self, *args: object) -> None:
        """No log output."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>No.</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer


def reachable(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let this process use the server at this address."""
    for name, value in environ(address).items():
        monkeypatch.setenv(name, value)
