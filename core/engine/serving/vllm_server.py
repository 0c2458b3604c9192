"""The vLLM server that is used: one that the engine starts for a base model, or one that runs already."""

from __future__ import annotations

import asyncio
import secrets
import socket
from pathlib import Path
from typing import Protocol

from core.engine import child_processes
from core.engine.api.errors import ApiError, unavailable
from core.engine.serve_settings import PROGRAM, VllmSettings
from core.engine.serving import vllm_http, vllm_log
from core.engine.serving.llama import BaseModel
from core.engine.serving.llama_http import ServerAddress
from core.engine.serving.vllm_folders import VllmFolders
from core.engine.serving.vllm_http import ServedBase
from core.message import msg

_START_S = 1800.0  # large models load, compile and warm up for minutes
_CHECK_S = 0.5  # between two looks at a starting server
_STOP_S = 15.0
# Adapters that fit in one batch, in memory, and their highest rank; FABULA_VLLM_ARGS can override each.
_LORA = ("--enable-lora", "--max-loras", "4", "--max-cpu-loras", "64", "--max-lora-rank", "64")


class VllmServer(Protocol):
    """A server with one base model.

    Attributes:
        served: the base as the server names it.
    """

    address: ServerAddress
    served: ServedBase

    @property
    def has_ended(self) -> bool:
        """Whether its process is known to have ended."""

    async def is_alive(self) -> bool:
        """Whether the server is running and healthy."""

    async def stop(self) -> None:
        """Stop it, unless it was running already."""


class JoinedServer:
    """A server that runs already."""

    def __init__(self, address: ServerAddress, served: ServedBase) -> None:
        self.address, self.served = address, served

    has_ended = False

    async def is_alive(self) -> bool:
        """Whether it is healthy and still has the same base."""
        try:
            return await vllm_http.is_healthy(self.address) and self.served in await vllm_http.bases(self.address)
        except ApiError:
            return False

    async def stop(self) -> None:
        """See `VllmServer`."""


class StartedServer:
    """A server that the engine has started."""

    def __init__(self, address: ServerAddress, served: ServedBase, process: asyncio.subprocess.Process) -> None:
        self.address, self.served, self._process = address, served, process

    @property
    def has_ended(self) -> bool:
        """See `VllmServer`."""
        return self._process.returncode is not None

    async def is_alive(self) -> bool:
        """See `VllmServer`."""
        return not self.has_ended and await vllm_http.is_healthy(self.address)

    async def stop(self) -> None:
        """See `VllmServer`."""
        await _stop(self._process)


async def join(url: str, key: str, base: BaseModel) -> JoinedServer:
    """The server at `url`.

    Raises:
        ApiError: 503 if it cannot be reached or serves another base.
    """
    address = vllm_http.address(url, key)
    found = await vllm_http.bases(address)
    paths = {str(path) for path in (base.folder, base.gguf) if path is not None}
    served = next((one for one in found if one.id == base.name or one.root in paths), None)
    if served is None:
        raise unavailable(
            msg(
                "The vLLM server at {url} serves {names}, not {name}. If it is the same model, start vLLM with "
                "--served-model-name {name}.",
                url=url,
                names=", ".join(one.id for one in found) or "–",
                name=base.name,
            )
        )
    return JoinedServer(address, served)


async def start(settings: VllmSettings, folders: VllmFolders, base: BaseModel) -> StartedServer:
    """Start a server for `base` and wait until it is ready. Raises ApiError 503 if it does not start."""
    folder = await asyncio.to_thread(folders.of_base, base)
    address = ServerAddress("127.0.0.1", _free_port(), secrets.token_urlsafe(24))
    process = await _spawn(settings, folders.log, folder, base, address)
    try:
        async with asyncio.timeout(_START_S):
            while process.returncode is None and not await vllm_http.is_healthy(address):
                await asyncio.sleep(_CHECK_S)
        if process.returncode is not None:
            raise unavailable(
                msg(
                    "vLLM could not load {name} and ended with code {code}: {line}. The whole output is in {log}.",
                    name=base.name,
                    code=process.returncode,
                    line=vllm_log.reason(folders.log).rstrip("."),
                    log=folders.log,
                )
            )
        found = await vllm_http.bases(address)
    except TimeoutError as exc:
        await _stop(process)
        raise unavailable(
            msg("The model {name} was not loaded within {start_s} seconds.", name=base.name, start_s=f"{_START_S:.0f}")
        ) from exc
    except BaseException:
        await _stop(process)
        raise
    served = next((one for one in found if one.id == base.name), ServedBase(base.name, str(folder), base.context))
    return StartedServer(address, served, process)


async def _spawn(
    settings: VllmSettings, log: Path, folder: Path, base: BaseModel, address: ServerAddress
) -> asyncio.subprocess.Process:
    arguments = [
        "serve", str(folder), "--host", address.host, "--port", str(address.port), "--served-model-name", base.name,
        "--max-model-len", str(base.context), *_LORA, *settings.arguments,
    ]  # fmt: skip
    environ = {
        **child_processes.environment(),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_API_KEY": address.key,  # not among the arguments, which every user of the machine can read
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *child_processes.command("core.engine.serving.vllm_child", PROGRAM, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environ,
            process_group=0,
        )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
