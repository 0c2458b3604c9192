"""A small HTTP server that answers in the shapes of vLLM's OpenAI-compatible server, without a model.

Written after vLLM's source (entrypoints/openai/completion, models and serve/lora). It writes the texts that tests
queue. As a program it takes the arguments of `vllm serve`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support import tiny_gemma
from tests.support.waiting import WAIT_LIMIT_S

DEFAULT = ("Once", " upon", " a", " time")
_END = "<eos>"
_IDS = {text: token for token, (text, *_) in enumerate(tiny_gemma.vocabulary())}  # for log-probabilities
_LIKELY, _OTHER = "\n", "\n\n"  # are always among the most likely tokens


@dataclass
class Reply:
    """What one request is answered with.

    Attributes:
        pieces: the text's tokens.
        finish: the finish reason; None to close the connection before the end.
        error: status and message of a refusal instead; with pieces, an error within the stream.
    """

    pieces: tuple[str, ...] = DEFAULT
    finish: str | None = "stop"
    error: tuple[int, str] | None = None


@dataclass
class FakeVllm:
    """The state of one server.

    Attributes:
        requests: bodies of the completions that were asked for.
        adapters: paths of the loaded adapters by name.
        together: what every completion waits at before it is answered.
    """

    base: str
    root: str = ""
    max_model_len: int = 512
    max_lora_rank: int = 64
    key: str = ""
    healthy: bool = True
    updates_adapters: bool = True
    replies: deque[Reply] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    together: threading.Barrier | None = None

    def refusal(self, body: dict[str, Any]) -> tuple[int, str] | None:
        """Why a completion is refused, as vLLM checks it; None if it is not."""
        if body["model"] != self.base and body["model"] not in self.adapters:
            return 404, f"The model `{body['model']}` does not exist."
        if not 0 < body.get("top_p", 1) <= 1:
            return 400, f"top_p must be in (0, 1], got {body['top_p']}."
        if len(body["prompt"]) + body["max_tokens"] > self.max_model_len:
            return 400, f"This model's maximum context length is {self.max_model_len} tokens."
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vllm: FakeVllm

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        if self.path == "/health":  # without a key, as in vLLM
            return self._send(200 if self.vllm.healthy else 503, b"")
        if not self._is_authorized():
            return None
        if self.path != "/v1/models":
            return self._json(404, {"detail": "Not Found"})
        vllm, common = self.vllm, {"object": "model", "created": int(time.time()), "owned_by": "vllm"}
        cards: list[dict[str, Any]] = [
            {"id": vllm.base, **common, "root": vllm.root, "parent": None, "max_model_len": vllm.max_model_len}
        ]
        for name, path in vllm.adapters.items():
            cards.append({"id": name, **common, "root": path, "parent": vllm.base, "max_model_len": None})
        return self._json(200, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._is_authorized():
            return None
        if self.path == "/v1/completions":
            return self._complete(body)
        if self.path == "/v1/load_lora_adapter" and self.vllm.updates_adapters:
            return self._load(body["lora_name"], Path(body["lora_path"]))
        if self.path == "/v1/unload_lora_adapter" and self.vllm.updates_adapters:
            if self.vllm.adapters.pop(body["lora_name"], None) is None:
                return self._error(404, f"The lora adapter '{body['lora_name']}' cannot be found.", "NotFoundError")
            return self._text(f"Success: LoRA adapter '{body['lora_name']}' removed successfully.")
        return self._json(404, {"detail": "Not Found"})

    def _is_authorized(self) -> bool:
        if self.vllm.key and self.headers.get("authorization") != f"Bearer {self.vllm.key}":
            self._json(401, {"error": "Unauthorized"})
            return False
        return True

    def _load(self, name: str, path: Path) -> None:
        if name in self.vllm.adapters:
            return self._error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        if not (path / "adapter_model.safetensors").is_file():
            return self._error(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self.vllm.max_lora_rank:
            message = f"LoRA rank {rank} is greater than max_lora_rank {self.vllm.max_lora_rank}."
            return self._error(500, message, "InternalServerError")
        self.vllm.adapters[name] = str(path)
        self.vllm.loads.append(name)
        return self._text(f"Success: LoRA adapter '{name}' added successfully.")

    def _complete(self, body: dict[str, Any]) -> None:
        vllm = self.vllm
        if (refusal := vllm.refusal(body)) is not None:
            return self._error(refusal[0], refusal[1], "NotFoundError" if refusal[0] == 404 else "BadRequestError")
        assert "logprobs" not in body or body["return_tokens_as_token_ids"]
        vllm.requests.append(body)
        if body.get("echo"):
            probs = _logprobs(body["prompt"], first=None)
            choice = {"index": 0, "text": "?" * len(body["prompt"]), "logprobs": probs, "finish_reason": "length"}
            return self._json(200, {"id": "cmpl-1", "object": "text_completion", "choices": [choice]})
        if vllm.together is not None:
            vllm.together.wait(WAIT_LIMIT_S)
        reply = vllm.replies.popleft() if vllm.replies else Reply()
        if not reply.pieces and reply.finish is None:
            vllm.adapters.clear()  # it has crashed, and is running again without them
        if reply.error is not None and not reply.pieces:
            kind = "InternalServerError" if reply.error[0] >= 500 else "BadRequestError"
            return self._error(reply.error[0], reply.error[1], kind)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        with suppress(ConnectionError):  # the engine has found a stop string
            self._stream(body, reply)
        self.close_connection = True

    def _stream(self, body: dict[str, Any], reply: Reply) -> None:
        pieces, finish = reply.pieces, reply.finish
        if finish is not None and len(pieces) > body["max_tokens"]:
            pieces, finish = pieces[: body["max_tokens"]], "length"
        tokens = [*pieces, _END] if finish == "stop" else list(pieces)
        for number, token in enumerate(tokens, 1):
            is_last = number == len(tokens)
            choice = {
                "index": 0,
                "text": "",  # not read
                "token_ids": _ids(token),
                "logprobs": _logprobs(_ids(token)[:1]) if body.get("logprobs") is not None else None,
                "finish_reason": finish if is_last else None,
                "stop_reason": None,
            }
            self._event(body, [choice], number)
        if reply.error is not None:
            error = {"message": reply.error[1], "type": "InternalServerError", "param": None, "code": reply.error[0]}
            self._chunk(f"data: {json.dumps({'error': error})}\n\n")
        if finish is not None:
            self._event(body, [], len(tokens))
        if finish is not None or reply.error is not None:
            self._chunk("data: [DONE]\n\n")
            self._chunk("")

    def _event(self, body: dict[str, Any], choices: list[dict[str, Any]], n_tokens: int) -> None:
        n_prompt = len(body["prompt"])
        usage = {"prompt_tokens": n_prompt, "total_tokens": n_prompt + n_tokens, "completion_tokens": n_tokens}
        event = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        self._chunk(f"data: {json.dumps({**event, 'choices': choices, 'usage': usage})}\n\n")

    def _chunk(self, text: str) -> None:
        raw = text.encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def _error(self, status: int, message: str, kind: str) -> None:
        self._json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def _json(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body).encode(), "application/json")

    def _text(self, text: str) -> None:
        self._send(200, text.encode(), "text/plain; charset=utf-8")

    def _send(self, status: int, body: bytes, kind: str = "") -> None:
        self.send_response(status)
        if kind:
            self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _ids(token: str) -> list[int]:
    """A token's id, or those of its bytes if it is not in the vocabulary."""
    return [_IDS[token]] if token in _IDS else [_IDS[f"<0x{byte:02X}>"] for byte in token.encode()]


def _logprobs(ids: list[int], first: float | None = -0.5) -> dict[str, Any]:
    """Of these tokens, named by their ids; as in vLLM, the chosen token is listed beside the most likely ones."""
    names = [f"token_id:{token}" for token in ids]
    values = [first, *[-0.5] * (len(names) - 1)]
    likely = {f"token_id:{_IDS[_LIKELY]}": -0.25, f"token_id:{_IDS[_OTHER]}": -1.5}
    top = [value and {name: value, **likely} for name, value in zip(names, values, strict=True)]
    return {"text_offset": [0] * len(names), "tokens": names, "token_logprobs": values, "top_logprobs": top}


def _server(vllm: FakeVllm, port: int) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"vllm": vllm})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    return server


@contextmanager
def serving(vllm: FakeVllm, port: int = 0) -> Iterator[str]:
    """Run a server for the duration of the block; gives its address."""
    server = _server(vllm, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main(arguments: list[str]) -> None:
    """`serve FOLDER --port …`, as `vllm serve`; writes its process id, arguments and environment to a file."""
    options = dict(itertools.pairwise(arguments))
    if "--fail" in arguments:
        print("ValueError: no GPU was found", file=sys.stderr)
        raise SystemExit(1)
    assert {path.name for path in Path(arguments[1]).iterdir()} >= {"config.json", "model.safetensors"}
    environ = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
    note = {"pid": os.getpid(), "arguments": arguments, "environ": environ}
    Path(os.environ["VLLM_TEST_NOTE"]).write_text(json.dumps(note))
    length, rank = int(options["--max-model-len"]), int(options["--max-lora-rank"])
    vllm = FakeVllm(options["--served-model-name"], arguments[1], length, rank, os.environ["VLLM_API_KEY"])
    vllm.healthy = "--slow" not in arguments  # which never gets ready
    _server(vllm, int(options["--port"])).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
