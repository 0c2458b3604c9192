"""One engine for outside clients: models under the names that programs for OpenAI ask for.

Jobs train a tiny random model, so that each takes seconds, and vectors come from
another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import httpx2

from bench._engine import RunningEngine, running_engine
from bench.conformance_clients._methods import CHAT, EMBEDDING, INSTRUCT, TRAINED
from tests.support.tiny_gemma import write_tiny_gemma
from tests.support.tiny_models import TinyModel

_TINY, _VECTORS = "tiny-gemma", "tiny-vectors"
_ALIASES: Mapping[str, str] = {
    TRAINED: _TINY,
    EMBEDDING: _VECTORS,
    "text-embedding-ada-002": _VECTORS,  # the default of several clients
}


@contextmanager
def conformance_engine(home: Path, chat_model: str) -> Iterator[RunningEngine]:
    """Run an engine with those models and aliases, and with result files in base64, as at OpenAI."""
    gemma = write_tiny_gemma(home / "tiny.gguf", context=4096)
    vectors = TinyModel("qwen3", keys={"pooling_type": 1}).write(home / "vectors.gguf")
    environ = {"FABULA_ENGINE_MODELS": f"{_TINY}={gemma},{_VECTORS}={vectors}", "FABULA_RESULTS_BASE64": "1"}
    environ["FABULA_TRAINER_PRIORITY"] = "normal"  # so that jobs end even if other programs keep the machine busy
    with patch.dict(os.environ, environ), running_engine(home / "engine") as engine:
        headers = {"authorization": f"Bearer {engine.token}"}
        for alias, model in {**_ALIASES, CHAT: chat_model, INSTRUCT: chat_model}.items():
            body = {"id": alias, "model": model}
            httpx2.post(f"{engine.url}/fabula/v1/aliases", headers=headers, json=body).raise_for_status()
        yield engine
