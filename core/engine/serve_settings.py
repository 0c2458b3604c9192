"""The settings about what generates texts: llama.cpp, or a vLLM server that the engine starts or joins. Pure, except
for a look at the key's file.

The engine and the studio's list of settings read them.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

SERVE: Final = "FABULA_ENGINE_SERVE"
"""Environment variable: `llama`, `vllm` (start a server), or the address of a vLLM server that runs already."""
LLAMA: Final = "llama"
VLLM: Final = "vllm"
ARGUMENTS: Final = "FABULA_VLLM_ARGS"
"""Environment variable: more arguments for `vllm serve`, as in a shell."""
KEY_FILE: Final = "FABULA_VLLM_KEY_FILE"
"""Environment variable: a file with the API key of a server that runs already."""
PROGRAM: Final = "vllm"


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How vLLM is used.

    Attributes:
        url: address of a server that runs already; None to start one.
        key: its API key; "" for none.
        arguments: more arguments for a server that is started.
    """

    url: str | None
    key: str = ""
    arguments: tuple[str, ...] = ()


def server_url(setting: str) -> str | None:
    """The address of a running vLLM server; None for `llama` and `vllm`.

    Raises:
        ValueError: none of these.
    """
    setting = setting.strip().rstrip("/").removesuffix("/v1")
    if setting.lower() in ("", LLAMA, VLLM):
        return None
    parts = urlsplit(setting)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ValueError(
            f"{SERVE}: {setting!r} is neither 'llama', 'vllm' nor the address of a vLLM server, such as "
            "http://127.0.0.1:8000"
        )
    return setting


def vllm(environ: Mapping[str, str]) -> VllmSettings | None:
    """How vLLM is used; None if llama.cpp generates texts.

    Raises:
        ValueError: a setting is malformed, or the key's file cannot be read.
    """
    setting = environ.get(SERVE, "")
    url = server_url(setting)
    if url is None and setting.strip().lower() != VLLM:
        return None
    try:
        arguments = tuple(shlex.split(environ.get(ARGUMENTS, "")))
    except ValueError as exc:
        raise ValueError(f"{ARGUMENTS}: {exc}") from exc
    return VllmSettings(url, _key(environ.get(KEY_FILE, "").strip()), arguments)


def program_is_missing(environ: Mapping[str, str]) -> bool:
    """Whether the engine has to start vLLM, and its program is not in the PATH."""
    found = vllm(environ)
    return found is not None and found.url is None and shutil.which(PROGRAM, path=environ.get("PATH")) is None


def _key(file: str) -> str:
    if not file:
        return ""
    try:
        key = Path(file).expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"{KEY_FILE}: {file} cannot be read: {exc}") from exc
    if not key or any(character.isspace() for character in key):
        raise ValueError(f"{KEY_FILE}: {file} must contain one key")
    return key
