"""Compares the speed of the engine with that of the llama.cpp server behind it: `python -m bench.serve`.

Both get the same streamed requests with the same sampling, in turns, one and four at a time. The llama.cpp server is
started by the engine's own code, with the engine's own settings. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from bench import _smoke
from core import packaged_models
from core.engine.formats import weights
from core.engine.formats.gguf_file import model_card
from core.engine.job_rules import CONTEXT, PARALLEL
from core.engine.serving.llama import BaseModel, Pool

# after this prompt, the untuned base repeats itself endlessly, so every answer has the same length
PROMPT = "宋,发射激光,艰难 ->\n"
TOKEN = "bench"
FRESH = httpx2.Limits(max_keepalive_connections=0)  # llama.cpp closes idle connections at unpredictable times

Ask = Callable[[], Awaitable[int]]


async def main() -> None:
    """Measure, then print a table and one line of JSON."""
    options = _options()
    task = asyncio.current_task()
    if task is not None:  # so that the engine does not keep running
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        gguf = weights.ensure_gguf(packaged_models.BASE, home, {})
        base = BaseModel(packaged_models.BASE, gguf, model_card(gguf))
        pool = Pool(options.threads)
        async with _engine(home, options.threads) as engine, _llama(pool, base) as llama:
            direct = _asker(llama, "/completion", _llama_order(options.tokens))
            through = _asker(engine, "/v1/completions", _openai_order(options.tokens))
            rows = [await _compare(direct, through, parallel, options.rounds) for parallel in (1, PARALLEL)]
        await pool.close()
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, {options.tokens} tokens an answer")
    print(f"{'requests at once':>18} {'llama.cpp tokens/s':>20} {'engine tokens/s':>16} {'ratio':>7}")
    for parallel, theirs, ours, ratio in rows:
        print(f"{parallel:>18} {theirs:>20.1f} {ours:>16.1f} {ratio:>7.3f}")
    print(json.dumps({"tokens_per_s_vs_llama_cpp": round(min(ratio for *_, ratio in rows), 4)}))


async def _compare(direct: Ask, through: Ask, parallel: int, rounds: int) -> tuple[int, float, float, float]:
    """Return (parallel requests, tokens/s of llama.cpp, tokens/s of the engine, median of the ratios of adjacent
    rounds).
    """
    speeds: dict[Ask, list[float]] = {direct: [], through: []}
    for ask in (direct, through):
        await _speed(ask, parallel)  # the first round of each is a warm-up and not counted
    for turn in range(rounds):
        for ask in (direct, through) if turn % 2 == 0 else (through, direct):
            speeds[ask].append(await _speed(ask, parallel))
    ratios = [ours / llama for llama, ours in zip(speeds[direct], speeds[through], strict=True)]
    medians = [statistics.median(speeds[ask]) for ask in (direct, through)]
    return parallel, medians[0], medians[1], statistics.median(ratios)


async def _speed(ask: Ask, parallel: int) -> float:
    started = time.perf_counter()
    tokens = sum(await asyncio.gather(*(ask() for _ in range(parallel))))
    return tokens / (time.perf_counter() - started)


def _asker(client: httpx2.AsyncClient, path: str, order: dict[str, Any]) -> Ask:
    async def ask() -> int:
        """Read one streamed answer to its end; return its number of tokens."""
        last = b""
        async with client.stream("POST", path, json=order) as answer:
            answer.raise_for_status()
            async for chunk in answer.aiter_raw():
                last = (last + chunk)[-4096:]
        events = [block[6:] for block in last.split(b"\n\n") if block.startswith(b"data: {")]
        final = json.loads(events[-1])
        usage = final.get("usage")
        return int(usage["completion_tokens"] if usage else final["tokens_predicted"])

    return ask


def _llama_order(tokens: int) -> dict[str, Any]:
    """Build the request that the engine sends to llama.cpp for `_openai_order`."""
    options = {"n_predict": tokens, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "lora": []}
    return {**options, "prompt": PROMPT, "stream": True, "cache_prompt": True, "repeat_last_n": CONTEXT}


def _openai_order(tokens: int) -> dict[str, Any]:
    order = {"model": packaged_models.BASE, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0.0}
    return {**order, "stream": True, "stream_options": {"include_usage": True}}


@asynccontextmanager
async def _llama(pool: Pool, base: BaseModel) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a llama.cpp server as the engine starts it, with a client for it."""
    async with pool.lease(base) as backend:
        address = backend.address
        headers = {"authorization": f"Bearer {address.key}"}
        url = f"http://{address.host}:{address.port}"
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=None, limits=FRESH) as client:
            yield client


@asynccontextmanager
async def _engine(home: Path, threads: int) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a real engine process, with a client for it."""
    command = [sys.executable, "-m", "core.engine", "--port", "0", "--home", str(home), "--threads", str(threads)]
    environment = {**os.environ, "FABULA_ENGINE_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1].removesuffix("/v1")
            headers = {"authorization": f"Bearer {TOKEN}"}
            async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=None, limits=FRESH) as client:
                yield client
        finally:
            process.terminate()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=96, help="length of an answer")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each, in turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of llama.cpp, both times")
    return _smoke.parse(parser)


if __name__ == "__main__":
    asyncio.run(main())
