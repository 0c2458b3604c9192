"""POST /v1/embeddings, for base models that are made for it."""

from __future__ import annotations

import base64
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine.api.connections import model_header
from core.engine.api.errors import ApiError, bad_value
from core.engine.api.models import ModelCatalogue
from core.engine.api.requests import model_body, reject_unknown, required, until_disconnected
from core.engine.chat_messages import is_missing
from core.engine.serving import llama_http, prompts
from core.engine.serving.generate import count_tokens, llama_error
from core.engine.serving.llama import Backend, BaseModel, Pool
from core.engine.serving.llama_errors import too_long
from core.engine.serving.prompts import Prompt, is_tokens
from core.message import msg

_MAX_INPUTS = 2048  # OpenAI's limit
_POOLINGS = (1, 2, 3)  # llama.cpp's numbers for mean, first and last token; 4 is that of models that rank texts


class Embeddings:
    """The endpoint. An embedding model runs in its own process, like any other model."""

    def __init__(self, models: ModelCatalogue, pool: Pool) -> None:
        self._models, self._pool = models, pool

    async def create(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        body = await model_body(request)
        reject_unknown(body, frozenset({"model", "input", "encoding_format", "dimensions", "user"}))
        model = self._models.find(required(body, "model"))
        inputs, encoded = _inputs(body.get("input")), _is_encoded(body.get("encoding_format"))
        if not is_missing(body.get("dimensions")):
            message = msg("'{name}' is not supported by this engine.", name="dimensions")
            raise ApiError(400, message, param="dimensions", code="unsupported_parameter")
        base = await run_in_threadpool(self._models.base, model.base)
        if base.card.pooling not in _POOLINGS:
            message = msg(
                "The model '{id}' cannot compute embeddings: its file names no pooling type (mean, first or last "
                "token).",
                id=model.id,
            )
            raise ApiError(400, message, param="model", code="model_not_supported")
        prompts.check_vocabulary(inputs, base, "input")
        found = await until_disconnected(request, self._computed(base, model.adapter, inputs))
        data = [
            {"object": "embedding", "index": index, "embedding": _base64(numbers) if encoded else numbers}
            for index, numbers in enumerate(found["vectors"])
        ]
        usage = {"prompt_tokens": found["tokens"], "total_tokens": found["tokens"]}
        return JSONResponse(
            {"object": "list", "data": data, "model": model.id, "usage": usage}, headers=model_header(model.own_id)
        )

    async def _computed(self, base: BaseModel, adapter: Path | None, inputs: list[Prompt]) -> dict[str, Any]:
        """The vectors, and the number of tokens read. Raises ApiError."""
        async with self._pool.lease(base, adapter, embedding=True) as backend:
            for one in inputs:
                await _check_length(backend, one)
            async with backend.slots.one():
                body = await _posted(backend, {"input": inputs, "encoding_format": "float"})
        rows = sorted(body["data"], key=lambda row: int(row["index"]))
        return {"vectors": [row["embedding"] for row in rows], "tokens": int(body["usage"]["prompt_tokens"])}


async def _posted(backend: Backend, body: dict[str, Any]) -> dict[str, Any]:
    try:
        async with aclosing(llama_http.post(backend.address, "/v1/embeddings", body)) as blocks:
            answer: dict[str, Any] = json.loads(b"".join([block async for block in blocks]))
    except (llama_http.ServerRefused, llama_http.ConnectionBroken) as exc:
        raise llama_error(exc) from exc
    return answer


async def _check_length(backend: Backend, one: Prompt) -> None:
    base = backend.base
    if not isinstance(one, str):
        n_tokens = len(one)
    elif len(one.encode()) + 2 <= base.context:  # a token has at least one byte; 2 for those that begin and end a text
        return
    else:
        n_tokens = await count_tokens(backend, one) + 2
    if n_tokens > base.context:
        error = too_long(base.context, n_tokens, base.card.context_length if base.is_limited else None)
        error.param = "input"
        raise error


def _inputs(raw: object) -> list[Prompt]:
    """Parse `input`: a text, token ids, or a list of these."""
    inputs: list[Any] = raw if isinstance(raw, list) and not is_tokens(raw) else [raw]
    if not 0 < len(inputs) <= _MAX_INPUTS or not all(
        is_tokens(one) or (isinstance(one, str) and one) for one in inputs
    ):
        raise bad_value(
            "input",
            msg(
                "'input' must be a text that is not empty, token ids, or a list of at most {most} of these.",
                most=_MAX_INPUTS,
            ),
        )
    return inputs


def _is_encoded(value: object) -> bool:
    if value not in (None, "float", "base64"):
        raise bad_value("encoding_format", msg("'encoding_format' must be 'float' or 'base64'."))
    return value == "base64"


def _base64(numbers: list[float]) -> str:
    return base64.b64encode(np.asarray(numbers, dtype="<f4").tobytes()).decode()
