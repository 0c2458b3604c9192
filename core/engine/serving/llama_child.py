"""`python -m core.engine.serving.llama_child`: runs one llama.cpp server for one base model, with or without an
adapter.

It reads its options as one line of JSON on stdin, writes `{"url": …}` to stdout, and exits when stdin closes, so that
it never outlives the engine.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_HTTP_THREADS = 16  # each open connection occupies one; tokenising must not wait for four long generations


def provide_openmp() -> None:
    """Load torch's bundled libgomp if the system has none: xllamacpp needs it, and slim images lack it."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        torch = importlib.util.find_spec("torch")
        for folder in (torch and torch.submodule_search_locations) or ():
            bundled = Path(folder) / "lib" / "libgomp.so.1"
            if bundled.exists():
                ctypes.CDLL(str(bundled), mode=ctypes.RTLD_GLOBAL)


def _start(options: dict[str, Any]) -> tuple[object, str]:
    """Start a server; return it (the caller must keep the reference) and its URL."""
    provide_openmp()
    import xllamacpp as llama  # type: ignore[import-untyped, unused-ignore]  # it has no type stubs

    params = llama.CommonParams()
    params.model.path = options["model"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [options["key"]]
    params.n_parallel = options["parallel"]
    params.n_ctx = options["context"]
    params.cache_ram_mib = options["cache_mib"]
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    params.n_threads_http = _HTTP_THREADS
    params.warmup = False
    # otherwise the model's own template would be rendered here, without limits
    params.chat_template, params.use_jinja = "chatml", False
    params.ui = False
    params.verbosity = 0
    if options.get("pooling"):
        params.embedding, params.pooling_type = True, llama.llama_pooling_type(options["pooling"])
        params.n_batch = params.n_ubatch = options["context"]  # a text is pooled in one piece
    if options["adapter"] is not None:
        adapter = llama.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = options["adapter"], 1.0
        params.lora_adapters = [adapter]
    server = llama.Server(params)
    return server, str(server.listening_address)


def main() -> None:
    """Serve until stdin closes.

    The process exits with `os._exit` while the server object still exists: destroying it, or exiting the interpreter
    normally, would wait forever for llama.cpp's threads, and the process would outlive an engine that was killed early.
    """
    try:
        _serve()
    except Exception as exc:  # stdin or stdout is closed because the engine has ended
        print(f"The llama.cpp process is exiting: {exc}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(1)


def _serve() -> None:
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp's own output must not mix with ours
    options = json.loads(sys.stdin.readline())
    try:
        _server, url = _start(options)
    except Exception as exc:  # the engine reports the error
        print(json.dumps({"error": str(exc)}), file=output, flush=True)
        return
    print(json.dumps({"url": url}), file=output, flush=True)
    sys.stdin.read()
    os._exit(0)  # stdin is closed, so no client is waiting for a response any more


if __name__ == "__main__":
    main()
