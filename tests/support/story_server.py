"""A controllable fake engine for browser tests: four models that stream piece by piece, wait, or never end."""

from __future__ import annotations

import json
import threading
from typing import Any

from tests.support import fault_server
from tests.support.fault_server import FaultHandler, FaultServer

MODELS = ("writer", "second", "third", "fourth")
_PACE_S = 0.02  # seconds between pieces, so fifty per second


class _StreamingHandler(FaultHandler):
    def stream(self, answer: fault_server.Answer, body: dict[str, Any]) -> None:
        server = self.fault
        assert isinstance(server, StreamingServer)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        go_on, hung_up, gated = server.go_on, server.hung_up, server.gated

        def say(chunk: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

        try:
            for number, piece in enumerate(server.by_model.get(body["model"], server.pieces)):
                if number == gated:
                    go_on.wait(fault_server.GIVE_UP_S)
                elif server.pace_s:
                    # longer before the first piece, as for reading a prompt
                    go_on.wait(server.pace_s * (1 if number else 20))
                say(fault_server.chunk_of(answer, body, piece.replace("{model}", body["model"]), None))
            while server.endless and not go_on.wait(_PACE_S):
                say(fault_server.chunk_of(answer, body, "字", None))
            say(fault_server.chunk_of(answer, body, "", "stop"))
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            hung_up.set()


class StreamingServer(FaultServer):
    """A fake engine that streams each model's pieces; with `endless`, streams never end."""

    handler = _StreamingHandler

    def __init__(self) -> None:
        super().__init__()
        self.models = [{**self.models[0], "id": name} for name in MODELS]
        self.by_model: dict[str, tuple[str, ...]] = {}
        self.begin(("从前，",))

    def begin(
        self, pieces: tuple[str, ...], *, gated: int | None = None, endless: bool = False, pace_s: float = 0
    ) -> None:
        """Set the pieces to stream (or `by_model`). After `gated` pieces, the stream waits for `go_on`."""
        self.pieces, self.gated, self.endless, self.pace_s = pieces, gated, endless, pace_s
        self.go_on, self.hung_up = threading.Event(), threading.Event()
