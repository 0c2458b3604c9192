"""`python -m core.engine.llama_child`: one llama.cpp server for one base model, with an adapter or without.

It reads its orders as one line of JSON on stdin, answers `{"url": …}` on stdout, and leaves when stdin closes:
so it never outlives the engine, however that ends.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_HTTP_THREADS = 16  # each open connection holds one, and tokenising must not wait behind four long answers


def _provide_openmp() -> None:
    """xllamacpp links the system's libgomp, which slim images lack; torch brings one under the same name."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        torch = importlib.util.find_spec("torch")
        for folder in (torch and torch.submodule_search_locations) or ():
            bundled = Path(folder) / "lib" / "libgomp.so.1"
            if bundled.exists():
                ctypes.CDLL(str(bundled), mode=ctypes.RTLD_GLOBAL)


def _start(orders: dict[str, Any]) -> tuple[object, str]:
    """The server, which must be kept, and its URL."""
    _provide_openmp()
    import xllamacpp as llama  # type: ignore[import-untyped, unused-ignore]  # it ships no types

    params = llama.CommonParams()
    params.model.path = orders["model"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [orders["key"]]
    params.n_parallel = orders["parallel"]
    params.n_ctx = orders["context"]
    params.cache_ram_mib = orders["cache_mib"]
    params.cpuparams.n_threads = orders["threads"]
    params.cpuparams_batch.n_threads = orders["threads"]
    params.n_threads_http = _HTTP_THREADS
    params.warmup = False
    params.ui = False
    params.verbosity = 0
    if orders["adapter"] is not None:
        adapter = llama.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = orders["adapter"], 1.0
        params.lora_adapters = [adapter]
    server = llama.Server(params)
    return server, str(server.listening_address)


def main() -> None:
    """Serve until stdin closes.

    It leaves by `os._exit` while it still holds the server: letting go of it, like an ordinary end of the interpreter,
    waits for llama.cpp's threads, for ever. That is how a child stayed behind whose engine was killed before it could
    read the answer.
    """
    try:
        _serve()
    except Exception as exc:  # stdin or stdout has gone, and the engine with it
        print(f"llama.cpp's process ends: {exc}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(1)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever llama.cpp prints must not mix with our one line
    orders = json.loads(sys.stdin.readline())
    try:
        _server, url = _start(orders)
    except Exception as exc:  # the engine words it; a traceback would only be noise
        print(json.dumps({"error": str(exc)}), file=answers, flush=True)
        return
    print(json.dumps({"url": url}), file=answers, flush=True)
    sys.stdin.read()
    os._exit(0)  # running requests belong to nobody any more


if __name__ == "__main__":
    main()
