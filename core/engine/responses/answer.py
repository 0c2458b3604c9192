"""Builds response objects and their events, in OpenAI's names and order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.engine.api.errors import ApiError
from core.engine.responses.input_items import Item, call_output, message_output, new_id
from core.engine.serving import logprobs_json
from core.engine.serving.answers import new_call_id
from core.engine.serving.call_reader import CallReader, Part
from core.engine.serving.generate import GeneratedChunk, GenerationEnd
from core.engine.serving.inference import InferenceRequest
from core.engine.serving.token_probs import TokenProb


class ResponseAnswer:
    """Builds one response (see `core.engine.serving.answers.Answer`).

    Args:
        response_id: the response's id.
        parsed: the chat request that it is made by.
        repeated: the fields that repeat the request.
        keep: stores the whole response, before the client hears that it is complete.
    """

    def __init__(
        self,
        response_id: str,
        parsed: InferenceRequest,
        repeated: Mapping[str, Any],
        keep: Callable[[dict[str, Any]], None],
    ) -> None:
        self._response: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": parsed.model.id,
            "output": [],
            "usage": None,
            **repeated,
        }
        self._keep = keep
        self._logprobs = parsed.sampling.logprobs
        self._reader = CallReader(parsed.calls) if parsed.tools.tools else None
        self._output: list[Item] = []
        self._open = False  # whether the last output item is still being written
        self._tokens: list[TokenProb] = []  # not sent yet
        self._end: GenerationEnd | None = None
        self._number = -1

    def whole(self, completions: Sequence[GeneratedChunk], usage: Mapping[str, int]) -> dict[str, Any]:
        """See `Answer`."""
        self.chunks(0, completions[0])
        self._complete(usage)
        return self._response

    def begin(self, n_choices: int) -> list[bytes]:
        """See `Answer`."""
        return [self._event(f"response.{kind}", response=self._response) for kind in ("created", "in_progress")]

    def chunks(self, index: int, chunk: GeneratedChunk) -> list[bytes]:
        """See `Answer`."""
        self._tokens.extend(chunk.tokens)
        events = [event for part in self._parts(chunk) for event in self._part(part)]
        if chunk.end:
            self._end = chunk.end
            if not self._output:
                events += self._open_message()  # an empty answer is a message, too
            events += self._close(chunk.end)
        return events

    def finish(self, usage: Mapping[str, int]) -> list[bytes]:
        """See `Answer`."""
        self._complete(usage)
        return [self._event(f"response.{self._response['status']}", response=self._response)]

    def failed(self, error: ApiError) -> list[bytes]:
        """See `Answer`."""
        started = [] if self._number >= 0 else self.begin(1)
        failure = {"code": "server_error", "message": error.message}
        self._response |= {"status": "failed", "completed_at": None, "incomplete_details": None, "error": failure}
        return [*started, self._event("response.failed", response=self._response)]

    def _complete(self, usage: Mapping[str, int]) -> None:
        assert self._end is not None
        if self._end.reason == "length":
            self._response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        else:
            self._response |= {"status": "completed", "completed_at": int(time.time())}
        self._response["output"] = self._output
        self._response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        self._keep(self._response)

    def _parts(self, chunk: GeneratedChunk) -> list[Part]:
        if self._reader is None:
            return [Part(chunk.text)] if chunk.text else []
        parts = self._reader.feed(chunk.text)
        return [*parts, *self._reader.flush()] if chunk.end else parts

    def _part(self, part: Part) -> list[bytes]:
        if part.name is not None:
            return [*self._close(None), *self._open_call(part.name)]
        if part.call is not None:
            self._last["arguments"] += part.text
            return [self._in_item("response.function_call_arguments.delta", delta=part.text)]
        opened = self._open_message() if not (self._open and self._last["type"] == "message") else []
        content = self._last["content"][0]
        content["text"] += part.text
        probs = self._probs()
        content["logprobs"] += probs
        return [*opened, self._in_part("response.output_text.delta", delta=part.text, logprobs=probs)]

    @property
    def _last(self) -> Item:
        return self._output[-1]

    def _open_message(self) -> list[bytes]:
        closed = self._close(None)
        self._add(message_output("", new_id("msg"), "in_progress"))
        item = {**self._last, "content": []}
        part = dict(self._last["content"][0])
        return [
            *closed,
            self._event("response.output_item.added", output_index=len(self._output) - 1, item=item),
            self._in_part("response.content_part.added", part=part),
        ]

    def _open_call(self, name: str) -> list[bytes]:
        self._add(call_output(new_id("fc"), new_call_id(), name, "", "in_progress"))
        return [self._event("response.output_item.added", output_index=len(self._output) - 1, item=self._last)]

    def _add(self, item: Item) -> None:
        self._output.append(item)
        self._open = True

    def _close(self, end: GenerationEnd | None) -> list[bytes]:
        """The events that end the last item; `end` is the end of the whole answer."""
        if not self._open:
            return []
        self._open = False
        item = self._last
        item["status"] = "incomplete" if end is not None and end.reason == "length" else "completed"
        if item["type"] == "function_call":
            done = [
                self._in_item("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"])
            ]
        else:
            part = item["content"][0]
            part["logprobs"] += self._probs()
            done = [
                self._in_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"]),
                self._in_part("response.content_part.done", part=part),
            ]
        last = self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)
        return [*done, last]

    def _probs(self) -> list[dict[str, Any]]:
        tokens, self._tokens = self._tokens, []
        if self._logprobs is None:
            return []
        entries: list[dict[str, Any]] = logprobs_json.of_chat(tokens, self._logprobs)["content"]
        return entries

    def _in_item(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._last["id"], output_index=len(self._output) - 1, **fields)

    def _in_part(self, kind: str, **fields: Any) -> bytes:
        return self._in_item(kind, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        body = {"type": kind, "sequence_number": self._number, **fields}
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return f"event: {kind}\ndata: {data}\n\n".encode()
