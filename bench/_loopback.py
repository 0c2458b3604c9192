"""An OpenAI-compatible server in its own process, for measurements: `python -m bench._loopback`.

Every answer takes 50 ms, or a configured latency. It can reject a fraction of the requests (429 with `Retry-After`) or
run out of credit, and counts requests and answers: `GET /counts` returns the counts, `GET /after` waits for a number of
answers, and `POST /reset` resets the counts (its JSON body sets the faults from then on). The first line of its output
is its address.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

LATENCY_S = 0.05
_ROOT = Path(__file__).parents[1]
RETRY_AFTER_S = 1
_STORY = "The giant of light stands over the harbour, and the night is quiet again. " * 4


class Loopback:
    """The server's configured faults, and its counts since the last reset."""

    def __init__(self) -> None:
        self.reset({})

    def reset(self, faults: dict[str, Any]) -> None:
        """Reset the counts.

        Faults: `refuse` (fraction of requests that get a 429), `credit` (number of answers until it is used up),
        `latency_s`.
        """
        self.latency_s = float(faults.get("latency_s", LATENCY_S))
        self.refuse = float(faults.get("refuse", 0))
        self.credit: int | None = faults.get("credit")
        self.dice = random.Random(7)
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.after_quota = 0
        self.quota_said = False
        self.refused_at: dict[str, float] = {}
        self.early = 0
        self.flying = 0
        self.peak = 0

    def counts(self) -> dict[str, Any]:
        """The counts so far."""
        return {
            "requests": self.asked.total(),
            "answers": self.answered.total(),
            "rows": len(self.answered),
            "twice": self.answered.total() - len(self.answered),
            "early": self.early,
            "after_quota": self.after_quota,
            "peak": self.peak,
        }

    async def complete(self, request: web.Request) -> web.Response:
        """Handle one text request."""
        body = await request.json()
        if not body.get("messages"):  # this is how curator queries its limits
            return _error(400, "messages is empty", "invalid_request_error", {})
        prompt = str(body["messages"][-1]["content"])
        self.asked[prompt] += 1
        loop = asyncio.get_running_loop()
        refused_at = self.refused_at.pop(prompt, None)
        if refused_at is not None and loop.time() - refused_at < RETRY_AFTER_S:
            self.early += 1
        if self.quota_said:
            self.after_quota += 1
        self.flying += 1
        self.peak = max(self.peak, self.flying)
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.flying -= 1
        if self.credit is not None and self.answered.total() >= self.credit:
            self.quota_said = True
            return _error(429, "You exceeded your current quota", "insufficient_quota", {})
        if self.refuse and self.dice.random() < self.refuse:
            self.refused_at[prompt] = loop.time()
            wait = {"Retry-After": str(RETRY_AFTER_S)}
            return _error(429, "Rate limit reached for requests", "rate_limit_exceeded", wait)
        self.answered[prompt] += 1
        return web.Response(body=_answer(str(body["model"])), content_type="application/json")


def _answer(model: str) -> bytes:
    message = {"role": "assistant", "content": _STORY, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 12, "completion_tokens": 64, "total_tokens": 76}
    told = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": model}
    return json.dumps({**told, "choices": [choice], "usage": usage}).encode()


def _error(status: int, message: str, code: str, headers: dict[str, str]) -> web.Response:
    body = {"error": {"message": message, "type": code, "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


async def main() -> None:
    """Serve until standard input is closed."""
    server = Loopback()

    async def counts(_: web.Request) -> web.Response:
        return web.json_response(server.counts())

    async def reset(request: web.Request) -> web.Response:
        server.reset(await request.json())
        return web.json_response({})

    async def after(request: web.Request) -> web.Response:
        """Respond once this number of answers has been sent."""
        most = int(request.query["answers"])
        while server.answered.total() < most:
            await asyncio.sleep(0.005)
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/after", after)
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_get("/counts", counts)
    app.router.add_post("/reset", reset)
    await serve(app, cancel=False)


async def serve(app: web.Application, *, cancel: bool) -> None:
    """Serve on a free port, print the address, and exit when stdin closes.

    `cancel`: whether to end answers whose client has disconnected.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=cancel)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's server has them
    print(f"http://127.0.0.1:{port}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def running() -> Iterator[str]:
    """Run the server in its own process for the duration of a block; yield its address."""
    command = [sys.executable, "-m", "bench._loopback"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(main())
