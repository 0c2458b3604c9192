"""An OpenAI-compatible server that streams at a steady pace, in its own process: `python -m bench._paced_server`.

The first chunk arrives after 200 ms, then one every 10 ms; the stream for a prompt that contains `ENDLESS` never ends.
The server records when a client disconnects early (`GET /hung_up`, seconds of the machine's monotonic clock). The first
line of its output is its address.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from aiohttp import web

from bench._loopback import serve

FIRST_S = 0.2
PACE_S = 0.01
PIECES = 1_000
PIECE = "the sea, "
ENDLESS = "without end"


class PacedServer:
    """What the server has recorded."""

    def __init__(self) -> None:
        self.hung_up: list[float] = []

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Serve one stream."""
        body = await request.json()
        endless = ENDLESS in json.dumps(body.get("messages") or body.get("prompt"))
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        loop = asyncio.get_running_loop()
        due = loop.time() + FIRST_S
        number = 0
        try:
            while endless or number < PIECES:
                await asyncio.sleep(max(0.0, due - loop.time()))
                await answer.write(_event(body, PIECE, None))
                number, due = number + 1, due + PACE_S
            usage = {"prompt_tokens": 12, "completion_tokens": number, "total_tokens": number + 12}
            await answer.write(_event(body, "", "stop") + _event(body, "", None, usage) + b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.hung_up.append(time.monotonic())
        return answer


def _event(body: dict[str, Any], piece: str, finish_reason: str | None, usage: dict[str, int] | None = None) -> bytes:
    said = {"delta": {"content": piece}} if "messages" in body else {"text": piece, "logprobs": None}
    choice = {"index": 0, "finish_reason": finish_reason, **said}
    kind = "chat.completion.chunk" if "messages" in body else "text_completion"
    choices = [] if usage else [choice]
    told = {
        "id": "c",
        "object": kind,
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": choices,
        "usage": usage,
    }
    return f"data: {json.dumps(told)}\n\n".encode()


async def main() -> None:
    """Serve until standard input is closed."""
    server = PacedServer()
    model = {"id": "writer", "object": "model", "created": 1_700_000_000, "owned_by": "bench"}
    health = {"status": "ok", "version": "1", "models": ["writer"], "queue": 0, "training": None}

    def fixed(answer: Any) -> Any:
        async def give(_: web.Request) -> web.Response:
            return web.json_response(answer() if callable(answer) else answer)

        return give

    app = web.Application()
    app.router.add_get("/v1/models", fixed({"object": "list", "data": [model]}))
    app.router.add_get("/health", fixed(health))
    app.router.add_get("/hung_up", fixed(lambda: server.hung_up))
    app.router.add_post("/v1/chat/completions", server.stream)
    app.router.add_post("/v1/completions", server.stream)
    await serve(app, cancel=True)


if __name__ == "__main__":
    asyncio.run(main())
