"""Parses a completion from an endpoint's JSON: texts, finish reasons, usage; or raises the error it contains.

A response with text or usage is billed. The parser therefore accepts every known format, and raises only if there is
nothing to keep:

- `message.content` as a string, or as a list of parts, of which text is joined and thinking skipped (Mistral:
  `{"type": "thinking"}`, `{"type": "text"}`; Responses API: `output_text`);
- no `model`: the requested one is assumed; a finish reason that is not a string is unknown;
- a complete response to a streaming request, and events in reply to a request for a complete response (see `events`);
- Anthropic's `content`, the Responses API's `output`, Gemini's `candidates` and Ollama's `message` instead of
  `choices`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from core.engine.message_text import of_answer
from core.errors import ProviderError
from core.providers.errors import from_status, message_for, unreadable
from core.providers.inline_thinking import without_thinking
from core.providers.provider_errors import error_object, http_status_of, is_rejection
from core.providers.schemas import Choice, Completion, Provider
from core.providers.usage import read_usage

_MAX_DEPTH = 100  # maximum nesting of the JSON; real responses have ten levels
_TEXT_PARTS = frozenset({"", "text", "output_text", "message", "assistant"})
_CONTENT = ("content", "parts", "text")  # `parts`: Gemini's own API
_REFUSAL = "refusal"
_WRAPPERS = ("data", "result", "response", "body")
_WITHOUT_CHOICES = ("message", "content", "output", "output_text", "response", "generated_text", "text")
_FINISH_REASON_FIELDS = (
    "finish_reason",
    "finishReason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "native_finish_reason",
)
_THINKING = ("reasoning_content", "reasoning", "thinking", "tool_calls")
UNKNOWN_FINISH_REASON = "unknown"
"""Finish reason for a completed stream if the provider gave none."""

# Finish reason → its spellings. Sources: API references of OpenAI, Azure, Gemini (`Candidate.FinishReason`), Anthropic
# (`stop_reason`), Mistral, Cohere, Bedrock (Converse, Titan), DeepSeek, Zhipu, Moonshot, MiniMax, Together, Hugging
# Face TGI, vLLM, SGLang, Ollama, llama.cpp, LM Studio.
_SPELLINGS: Mapping[str, str] = {
    "stop": (
        "stop stopped stop_sequence stop_sequences stop_token stop_word word eos eos_token eog end end_turn endoftext"
        " end_of_text end_of_turn im_end complete completed completion finish finished done normal natural"
        " eos_token_found eos_found stop_string_found success succeed succeeded eos_id stop_str stop_token_id"
        " natural_stop stopped_eos stopped_word"
    ),
    "length": (
        "length max_tokens max_token max_length max_output_tokens max_new_tokens max_completion_tokens token_limit"
        " limit model_length context_length context_length_exceeded model_context_window_exceeded max_output"
        " max_tokens_exceeded maximum_tokens max_total_tokens max_new_token max_seq_len max_model_len"
        " max_context_length context_window_exceeded output_limit stopped_limit"
        " max_tokens_reached max_predicted_tokens_reached context_length_reached error_limit incomplete truncated"
    ),
    "content_filter": (
        "content_filter content_filtered content_filtering filter filtered safety recitation blocklist"
        " prohibited_content spii sensitive guardrail guardrail_intervened error_toxic image_safety language"
        " content_policy_violation image_prohibited_content responsible_ai moderated"
        " content_policy moderation policy_violation data_inspection_failed"
    ),
    "refusal": "refusal refused",
    "tool_calls": "tool_calls tool_call tool_use function_call malformed_function_call unexpected_tool_call",
    "error": (
        "error failed failure network_error insufficient_system_resource timeout abort aborted cancelled canceled"
        " user_cancel user_stopped model_unloaded malformed_response"
    ),
}
_NO_FINISH_REASON = frozenset({"", "null", "none", "unspecified", "unknown", "undefined", "nan"})
_CANONICAL = {word.replace("_", ""): name for name, words in _SPELLINGS.items() for word in words.split()}
_MAX_FINISH_REASON = 30  # length of the database column


def parse_completion(answer: Any, provider: Provider, model: str, *, tools: bool = False) -> Completion:
    """Parse a completion.

    Args:
        answer: the parsed JSON.
        provider: the endpoint.
        model: the requested model, used if the response names none.
        tools: the request offers tools, so a call of one is an answer (see `Choice`).

    Raises:
        ProviderError: the response is only an error; its code or message determines the exception type.
        Unreadable: it contains neither text, nor usage, nor an error.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict):
        raise unreadable(provider)
    answer = _unwrapped(answer)
    choices = _choices(answer)
    texts = tuple(_choice(choice, provider, tools=tools) for choice in choices)
    usage = read_usage(answer)
    has_text = any(choice.text for choice in texts)
    thinking = any(has_thinking(choice.get("message")) for choice in choices if isinstance(choice, dict))
    if has_text or thinking:
        usage = usage.zeros_unknown()
    if not has_text:
        texts = _without_text(answer, texts, provider, billed=thinking or usage.billed)
    if provider.capabilities.inline_thinking:
        texts = tuple(replace(choice, text=without_thinking(choice.text)) for choice in texts)
    model_name = answer.get("model")
    return Completion(
        texts=texts,
        model=model_name if isinstance(model_name, str) and model_name else model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def parsed(raw: bytes) -> Any:
    """Parse JSON leniently: invalid UTF-8 is replaced, and text after the JSON is ignored.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply for the recursive readers.
    """
    try:
        value = _parsed(raw)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH and _exceeds_depth(value, _MAX_DEPTH):
        raise ValueError("nested too deeply")
    return value


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        text = raw.decode("utf-8-sig", "replace").lstrip()
    return json.JSONDecoder(strict=False).raw_decode(text)[0]


def _exceeds_depth(value: object, levels: int) -> bool:
    """Whether JSON is nested deeper than `levels`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (levels == 0 or any(_exceeds_depth(item, levels - 1) for item in inner))


def text_of(content: object) -> str:
    """The text of a message's content (a string, a part, or a list of these), without thinking."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(text_of, content))
    if not isinstance(content, dict):
        return ""
    if str(content.get("type") or "").lower() not in _TEXT_PARTS or content.get("thought") is True:
        return ""
    for name in ("text", "content", "parts", "value"):
        if text := text_of(content.get(name)):
            return text
    return ""


def text_and_finish_reason(message: object, raw_reason: object) -> tuple[str, str | None]:
    """Text and finish reason of a message or delta. A refusal counts as text, with the finish reason `refusal`."""
    finish_reason = normalize_finish_reason(raw_reason)
    if not isinstance(message, dict):
        return text_of(message), finish_reason
    content = next((message[name] for name in _CONTENT if message.get(name) is not None), None)
    refusal = message.get(_REFUSAL) or _refusal_part(content)
    if isinstance(refusal, str) and refusal:
        return text_of(content) or refusal, _REFUSAL
    return text_of(content), finish_reason


def raw_finish_reason(choice: Mapping[str, Any]) -> object:
    """A choice's finish reason as given by the endpoint."""
    return next((choice[name] for name in _FINISH_REASON_FIELDS if choice.get(name) not in (None, "")), None)


def _unwrapped(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Unwrap the completion from a gateway's wrapper object: `{"code": 0, "data": {…}}`."""
    if "choices" in answer or "usage" in answer:
        return answer
    for name in _WRAPPERS:
        if isinstance(inner := answer.get(name), dict) and _choices(inner):
            return inner
    return answer


def _choices(answer: Mapping[str, Any]) -> list[Any]:
    """A response's choices; for an API without choices, its single result as one choice."""
    for name in ("choices", "candidates"):
        found = answer.get(name)
        if isinstance(found, dict):
            return [found]
        if isinstance(found, list):
            return found
    output = answer.get("output")
    if isinstance(output, dict):  # DashScope's and Bedrock's own APIs; Bedrock's finish reason is next to `output`
        return [
            {"finish_reason": raw_finish_reason(answer), **found}
            for found in _choices(output)
            if isinstance(found, dict)
        ]
    if error_object(answer) is not None:
        return []
    for name in _WITHOUT_CHOICES:
        message = answer.get(name)
        if text_of(message) and (name != "message" or isinstance(message, dict)):
            wrapped_message = message if isinstance(message, dict) else {"content": message}
            finish_reason = (
                raw_finish_reason(answer) or answer.get("incomplete_details") or answer.get("status")
            )  # Responses API
            return [{"message": wrapped_message, **({} if finish_reason is None else {"finish_reason": finish_reason})}]
    return []


def _choice(choice: Any, provider: Provider, *, tools: bool) -> Choice:
    if not isinstance(choice, dict):
        return Choice(text_of(choice), None)
    message = choice.get("message") or choice.get("delta") or choice.get("content")
    text, finish_reason = text_and_finish_reason(message, raw_finish_reason(choice))
    if tools and isinstance(message, dict) and message.get("tool_calls"):
        text = of_answer(message) or ""
        finish_reason = "stop" if finish_reason == "tool_calls" else finish_reason  # the answer is complete
    error = error_object({"error": choice["error"]}) if choice.get("error") else None
    return Choice(
        text=text or text_of(choice.get("text") or ""),
        finish_reason=finish_reason if error is None else "error",
        error="" if error is None else message_for(error, provider),
    )


def _without_text(
    answer: Mapping[str, Any], texts: tuple[Choice, ...], provider: Provider, *, billed: bool
) -> tuple[Choice, ...]:
    """Return the choices of a response without text if the response is billed.

    Raises:
        ProviderError: the response is not billed, and is an error or empty.
    """
    error = error_object(answer) or _error_of_choice(answer)
    if error is not None and not billed:
        raise error_in_answer(error, provider)
    if error is not None:
        return (Choice("", "error", message_for(error, provider)),)
    if not texts and not billed and not isinstance(answer.get("choices"), list):
        raise unreadable(provider)
    return texts


def error_in_answer(error: object, provider: Provider) -> ProviderError:
    """The exception for an error object in a response with HTTP 200.

    The endpoint accepted the request, so it may be billed unless the error states that the request was rejected.
    """
    status, proven = http_status_of(error), is_rejection(error)
    return from_status(status, error, {}, provider, "/chat/completions", proven=proven)


def _error_of_choice(answer: Mapping[str, Any]) -> object | None:
    """The error that the first choice contains instead of text (OpenRouter)."""
    choices = _choices(answer)
    choice = choices[0] if choices else None
    return error_object({"error": choice.get("error")}) if isinstance(choice, dict) else None


def _refusal_part(content: object) -> str:
    if not isinstance(content, list):
        return ""
    return "".join(
        part[_REFUSAL]
        for part in content
        if isinstance(part, dict) and part.get("type") == _REFUSAL and isinstance(part.get(_REFUSAL), str)
    )


def has_thinking(message: object) -> bool:
    """Whether a message or delta contains output that is not text, such as thinking, which is billed too."""
    if not isinstance(message, dict):
        return False
    if any(map(message.get, _THINKING)):
        return True
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in ("thinking", "reasoning") for part in content
    )


def normalize_finish_reason(reason: object) -> str | None:
    """Normalise a finish reason from any provider to one vocabulary, for rows, streams and batches.

    `stop` (complete, or at a stop sequence), `length` (token limit), `content_filter`, `refusal`, `tool_calls`,
    `error`. None if the provider gave none or it is unreadable. Other values are kept unchanged.

    Case, hyphens and enum prefixes (`FinishReason.STOP`, `FINISH_REASON_STOP`) are ignored. For an object, its `type`
    is used (SGLang: `{"type": "length", "length": 16}`).
    """
    if isinstance(reason, dict):
        reason = reason.get("type") or reason.get("reason")
    return _normalized_word(reason) if isinstance(reason, str) else None


@lru_cache(maxsize=256)
def _normalized_word(reason: str) -> str | None:
    if reason in ("</s>", "<|end|>"):
        return "stop"
    word = re.sub(r"[^a-z0-9]+", "_", reason.lower().strip()).strip("_")
    word = re.sub(r"^(finish|stop)_?reason_", "", word)
    letters = word.replace("_", "")
    return None if letters in _NO_FINISH_REASON else _CANONICAL.get(letters, word[:_MAX_FINISH_REASON])
