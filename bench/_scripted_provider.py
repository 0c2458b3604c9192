"""A provider with scripted answers that charges like a real provider and records its charges.

`KINDS` are answers from real providers: complete, unusual and broken. Each defines its actual usage; the bench measures
whether the studio reads it correctly.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.pricing.price_book import PriceBook
from core.pricing.prices import Price
from core.providers import Provider, Registry

STORY = "A story."
_MODEL = "writer"
_USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
PRICE = Price(
    _MODEL, "scripted", Decimal(1_000), Decimal(2_000), None, None, "USD", "bench", date(2026, 1, 1),
    cached_input_per_mtok=Decimal(100),
)  # fmt: skip
"""A tenth of a cent per prompt token and a fifth of a cent per completion token, so that small texts cost large
amounts.
"""
BOOK = PriceBook(overlay=(PRICE,), source=None, today=date(2026, 11, 1))


@dataclass(frozen=True, slots=True)
class AnswerKind:
    """One kind of answer.

    Attributes:
        body: JSON, or bytes that are not JSON.
        took: tokens that the provider charges for (prompt, completion, and cached prompt tokens); None if it charges
            nothing.
        whole: whether the answer contains a complete text and its usage, so that one request is enough.
        cut: whether the connection ends in the middle of the body.
        final: whether a retry would get the same answer.
        unclear: whether nothing is charged but the answer does not prove this, so that the maximum possible cost
            counts.
    """

    name: str
    body: Any
    took: tuple[int, int, int] | None = (10, 5, 0)
    whole: bool = False
    status: int = 200
    content_type: str = "application/json"
    cut: bool = False
    final: bool = False
    unclear: bool = False

    @property
    def cost_usd(self) -> Decimal:
        """The provider's charge in US dollars."""
        if self.took is None:
            return Decimal(0)
        cost = PRICE.call(self.took[0], self.took[1], cached_tokens=self.took[2])
        assert cost is not None
        return cost


def _chat(
    content: object = STORY, finish_reason: object = "stop", usage: object = _USAGE, **more: Any
) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "model": _MODEL, "choices": [choice], "usage": usage, **more}


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in _chat().items() if key != name}


def _events(*chunks: object) -> bytes:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (*chunks,)).encode() + b"data: [DONE]\n\n"


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


_THINKING = {"type": "thinking", "thinking": [_text("Hm.")]}
_REASONING = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 1015,
    "completion_tokens_details": {"reasoning_tokens": 1000},
}
# OpenAI's message
_LIMIT_REACHED = "Could not finish the message because max_tokens or model output limit was reached."
_ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _wholes() -> Iterator[AnswerKind]:
    bodies: dict[str, Any] = {
        "as OpenAI": _chat(),
        "content is a list of parts": _chat([_text("A "), _text("story.")]),
        "output_text parts": _chat([{"type": "output_text", "text": STORY}]),
        "thinking, then text": _chat([_THINKING, _text(STORY)]),
        "content is one part": _chat(_text(STORY)),
        "no model": _without("model"),
        "null model": _chat(model=None),
        "null error beside it": _chat(error=None),
        "ending STOP": _chat(finish_reason="STOP"),
        "ending FinishReason.STOP": _chat(finish_reason="FinishReason.STOP"),
        "ending COMPLETE": _chat(finish_reason="COMPLETE"),
        "ending end_turn": _chat(finish_reason="end_turn"),
        "ending is an object": _chat(finish_reason={"type": "stop", "matched": 2}),
        "float counts": _chat(usage={"prompt_tokens": 10.0, "completion_tokens": 5.0}),
        "counts as strings": _chat(usage={"prompt_tokens": "10", "completion_tokens": "5"}),
        "input_tokens, output_tokens": _chat(usage={"input_tokens": 10, "output_tokens": 5}),
        "no completion count": _chat(usage={"prompt_tokens": 10, "total_tokens": 15}),
        "usage in the choice": {**_without("usage"), "choices": [{**_chat()["choices"][0], "usage": _USAGE}]},
        "usage in x_groq": {**_without("usage"), "x_groq": {"usage": _USAGE}},
        "message is a string": {**_chat(), "choices": [{"message": STORY, "finish_reason": "stop"}]},
        "text in a chat choice": {**_chat(), "choices": [{"text": STORY, "finish_reason": "stop"}]},
    }
    for name, body in bodies.items():
        yield AnswerKind(name, body, whole=True)
    yield AnswerKind("reasoning in the total only", _chat(usage=_REASONING), (10, 1005, 0), whole=True)
    cached = {**_USAGE, "prompt_tokens_details": {"cached_tokens": 8}}
    yield AnswerKind("cached_tokens", _chat(usage=cached), (10, 5, 8), whole=True)
    hits = {**_USAGE, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}
    yield AnswerKind("prompt_cache_hit_tokens", _chat(usage=hits), (10, 5, 8), whole=True)
    yield AnswerKind("blank lines before the JSON", b"\n\n\n" + json.dumps(_chat()).encode(), whole=True)
    yield AnswerKind(
        "bytes that are no UTF-8", json.dumps(_chat("A st\xf6ry."), ensure_ascii=False).encode("latin-1"), whole=True
    )
    delta = {"choices": [{"delta": {"content": STORY}, "finish_reason": "stop"}]}
    body = _events(delta, {"choices": [], "usage": _USAGE})
    yield AnswerKind("events in place of JSON", body, whole=True, content_type="text/event-stream")
    anthropic = {
        "content": [_text(STORY)],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }
    yield AnswerKind("Anthropic's shape", anthropic, whole=True)


def _odd() -> Iterator[AnswerKind]:
    """Answers that are billed but lack a complete text and complete usage."""
    yield AnswerKind("usage all zero", _chat(usage=_ZERO), final=True)
    yield AnswerKind("no usage", _chat(usage=None), final=True)
    yield AnswerKind("usage of another shape", _chat(usage="15"), final=True)
    yield AnswerKind("total only", _chat(usage={"total_tokens": 15}), final=True)
    yield AnswerKind("a count beyond every integer", _chat(usage={**_USAGE, "completion_tokens": 10**30}), final=True)
    yield AnswerKind("no text", _chat(None), final=True)
    yield AnswerKind("no choices", _chat(choices=[]), final=True)
    yield AnswerKind("choices null, with usage", _chat(choices=None), final=True)
    yield AnswerKind("content is a number", _chat(5), final=True)
    yield AnswerKind("ending is a number", _chat(finish_reason=1), final=True)
    yield AnswerKind("ending is empty", _chat(finish_reason=""), final=True)
    yield AnswerKind("ending MAX_TOKENS", _chat(finish_reason="MAX_TOKENS"), final=True)
    yield AnswerKind("ending model_length", _chat(finish_reason="model_length"), final=True)
    yield AnswerKind("ending content-filter", _chat("", finish_reason="content-filter"), final=True)
    yield AnswerKind("ending SAFETY", _chat(None, finish_reason="SAFETY"), final=True)
    yield AnswerKind("a refusal", _chat(choices=[{"message": {"refusal": "No."}, "finish_reason": "stop"}]), final=True)
    yield AnswerKind("thinking only", _chat([_THINKING], finish_reason="length"), final=True)
    yield AnswerKind("an error beside usage", _chat("", error={"message": "Broke off", "code": 502}), final=True)


def _broken() -> Iterator[AnswerKind]:
    """Answers that are billed but unreadable."""
    yield AnswerKind("JSON that is cut off", json.dumps(_chat()).encode()[:90])
    yield AnswerKind("a connection that is cut off", json.dumps(_chat()).encode(), cut=True)
    yield AnswerKind("a connection that is dropped", b"", cut=True)
    yield AnswerKind("an empty body", b"")
    yield AnswerKind("JSON of another shape", {"id": "1", "object": "chat.completion", "model": _MODEL})
    yield AnswerKind("choices null, no usage", {"model": _MODEL, "choices": None})
    yield AnswerKind("a list", ["A story."])
    yield AnswerKind("a gateway timeout", {"error": {"message": "upstream timed out"}}, status=504)
    invalid = "Failed to create completion as the model generated invalid Unicode output"  # Azure's message
    yield AnswerKind("500 after writing", {"error": {"message": invalid}}, status=500)
    yield AnswerKind(
        "502 after writing", b"<html><title>502 Bad Gateway</title></html>", status=502, content_type="text/html"
    )
    yield AnswerKind(
        "503 of a proxy, after writing",
        b"<html><title>Application error</title></html>",
        status=503,
        content_type="text/html",
    )
    reset = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
    yield AnswerKind("503 of Envoy, after writing", reset.encode(), status=503, content_type="text/plain")
    yield AnswerKind("424 after writing", {"error": {"message": "The model failed"}}, status=424)
    yield AnswerKind("520 after writing", b"error code: 520", status=520, content_type="text/plain")
    yield AnswerKind("502 inside 200, after writing", {"error": {"message": "Provider returned error", "code": 502}})
    yield AnswerKind("timeout inside 200, after writing", {"error": {"message": "Upstream request timed out"}})
    filtered = {"message": "The response was filtered", "code": "content_filter", "status": 400}
    yield AnswerKind("400 of the content filter", {"error": filtered}, status=400, final=True)
    withheld = {"message": "Failed to parse", "code": "output_parse_failed", "failed_generation": STORY}
    yield AnswerKind("400 after writing", {"error": withheld}, status=400, final=True)
    yield AnswerKind("400 at the token limit", {"error": {"message": _LIMIT_REACHED}}, status=400, final=True)
    yield AnswerKind("an error inside 200, after writing", {"error": {"message": "Generation failed"}}, final=True)


def _errors() -> Iterator[AnswerKind]:
    """Answers that are not billed."""

    def told(name: str, error: object, status: int = 200, *, final: bool = False, unclear: bool = False) -> AnswerKind:
        return AnswerKind(name, {"error": error}, None, status=status, final=final, unclear=unclear)

    yield told("429", {"message": "Rate limit reached", "code": "rate_limit_exceeded"}, 429)
    yield told("500", {"message": "oops"}, 500, unclear=True)
    yield told("503", {"message": "The engine is currently overloaded", "type": "server_error"}, 503)
    yield told("429 inside 200", {"message": "Rate limit exceeded", "code": 429})
    yield told("502 inside 200", {"message": "Provider returned error", "code": 502}, unclear=True)
    yield told("an error that is a string", "Unexpected endpoint or method. (POST /)", final=True)
    yield told("400", {"message": "Not this one"}, 400, final=True)
    yield told("no credit: insufficient_quota", {"message": "x", "type": "insufficient_quota"}, 429, final=True)
    yield told("no credit: 1113", {"code": "1113", "message": "余额不足"}, 429, final=True)
    yield told("no credit: Arrearage", {"code": "Arrearage", "message": "Access denied"}, 400, final=True)
    yield told("no credit: 402 inside 200", {"code": 402, "message": "Insufficient credits"}, final=True)


KINDS: tuple[AnswerKind, ...] = (*_wholes(), *_odd(), *_broken(), *_errors())
GOOD = KINDS[0]


class ScriptedProvider:
    """An OpenAI-compatible server on loopback that records its charges; a context manager.

    Attributes:
        script: (prompt, number of earlier requests for it) → the next answer.
        charged_usd: total amount charged.
        requests: number of requests per prompt.
    """

    def __init__(self, script: Callable[[str, int], AnswerKind] = lambda prompt, before: GOOD) -> None:
        self.script = script
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_ProviderHandler,), {"provider": self}))
        self._http.daemon_threads = True
        self.reset()

    def __enter__(self) -> ScriptedProvider:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        """The server's address, for a provider's `base_url`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def registry(self) -> Registry:
        """A registry that has this server as the provider `scripted`."""
        return Registry([Provider("scripted", "compatible", "The scripted provider", self.url, "key")])

    def reset(self) -> None:
        """Reset the recorded charges and requests."""
        with self._lock:
            self.charged_usd = Decimal(0)
            self.requests: Counter[str] = Counter()

    def sell(self, prompt: str) -> AnswerKind:
        """Return the answer to the next request for `prompt`, which is charged before anything is sent."""
        with self._lock:
            kind = self.script(prompt, self.requests[prompt])
            self.requests[prompt] += 1
            self.charged_usd += kind.cost_usd
        return kind


@contextmanager
def provider(script: Callable[[str, int], AnswerKind]) -> Iterator[ScriptedProvider]:
    """Run a provider for the duration of a block."""
    with ScriptedProvider(script) as running:
        yield running


class _ProviderHandler(BaseHTTPRequestHandler):
    provider: ScriptedProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer waits 40 ms for an acknowledgement

    def log_message(self, *args: object) -> None:
        """Suppress log output, because a bench prints its own figures."""

    def do_POST(self) -> None:
        asked: Mapping[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        kind = self.provider.sell(str(asked["messages"][-1]["content"]))
        body = kind.body if isinstance(kind.body, bytes) else json.dumps(kind.body).encode()
        try:
            if not (kind.cut and not body):
                self.send_response(kind.status)
                self.send_header("content-type", kind.content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if kind.cut else body)
            if kind.cut:
                self.close_connection = True
                self.connection.close()
        except OSError:
            self.close_connection = True  # the client disconnected
