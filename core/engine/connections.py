"""Connections of clients: how many there may be, and how long a half-sent request is waited for."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from core.engine.errors import ApiError
from core.message import msg

MOST = 256  # answered at once; uvicorn answers more with 503
_MOST_OPEN = MOST + 64  # beyond this a connection is closed unread, so that the process keeps file descriptors
HEADERS_S = 10.0  # from the first byte of a request (or from the connection) to the end of its headers
BODY_IDLE_S = 60.0  # without a byte of a body that has not ended

_Phase = Literal["headers", "body"]


class ClientConnection(H11Protocol):
    """One client's connection. uvicorn's own waits for ever for the rest of a request.

    Set with `uvicorn.Config(http=Connection)`. A request that is late is answered with 408, unless it has been answered
    already, and the connection is closed: its handler then sees a client that has gone.
    """

    _timer: asyncio.TimerHandle | None = None
    _phase: _Phase | None = None
    _started = False  # whether the client has sent anything

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_OPEN:
            transport.abort()
            return
        self._wait("headers")

    def data_received(self, data: bytes) -> None:
        """Take some of a request."""
        self._started = True
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            if self._phase != "headers":
                self._wait("headers")
        elif self.conn.their_state is h11.SEND_BODY:
            self._wait("body")
        else:
            self._wait(None)

    def on_response_complete(self) -> None:
        """A body whose request was answered before its end (401, 413) is not waited for any longer than another."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._wait("body")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._wait(None)
        super().connection_lost(exc)

    def _wait(self, phase: _Phase | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._phase, self._timer = phase, None
        if phase is not None and not self.transport.is_closing():
            self._timer = self.loop.call_later(HEADERS_S if phase == "headers" else BODY_IDLE_S, self._late, phase)

    def _late(self, phase: _Phase) -> None:
        if phase == "body" and self.flow.read_paused:  # it is the engine that has not read on
            self._wait("body")
            return
        answered = self.cycle is not None and self.cycle.response_started
        if self._started and (phase == "headers" or not answered):
            self.transport.write(_timeout(phase))
        self.transport.close()


def _timeout(phase: _Phase) -> bytes:
    """A 408 as bytes: h11 would not send one in the middle of a request."""
    if phase == "headers":
        seconds = f"{HEADERS_S:.0f}"
        said = msg(
            "The request was not sent completely: the engine waited {seconds} seconds for its headers.", seconds=seconds
        )
    else:
        seconds = f"{BODY_IDLE_S:.0f}"
        said = msg(
            "The request was not sent completely: the engine waited {seconds} seconds for more.", seconds=seconds
        )
    error = ApiError(408, said, code="request_timeout")
    body = json.dumps(error.body()).encode()
    head = (
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
