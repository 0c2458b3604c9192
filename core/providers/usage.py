"""Parses token usage from responses, for rows, streams, batches, previews and evaluations.

Formats of the providers:

- DeepSeek: `prompt_cache_hit_tokens` and `prompt_cache_miss_tokens` in addition to OpenAI's names
  (api-docs.deepseek.com).
- Moonshot: `cached_tokens` in `usage` itself, and `usage` inside the last choice of a stream.
- Groq: `x_groq.usage` in the last event of a stream.
- Gemini's OpenAI-compatible endpoint, xAI and gateways to them: reasoning tokens that are included in `total_tokens`
  (or only in `completion_tokens_details.reasoning_tokens`), but not in `completion_tokens`. They are billed as output.
- The Responses API: `input_tokens`, `output_tokens`, `input_tokens_details`.
- Anthropic: `input_tokens` without what was read from its cache (`cache_read_input_tokens`) or written to it
  (`cache_creation_input_tokens`); both are part of the prompt (docs.anthropic.com, "Prompt caching").
- Bedrock's Converse and its gateways: `inputTokens`, `outputTokens`, `cacheReadInputTokens` (docs.aws.amazon.com).
- Cohere: `billed_units` inside `usage` (docs.cohere.com, Chat API v2).
- Ollama: zeros, or no prompt tokens, if the prompt was in its cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_MAX_TOKENS = 2**31 - 1  # maximum of the database's integer columns; no request has this many tokens
_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count", "inputTokens", "promptTokens")
_COMPLETION = (
    "completion_tokens",
    "output_tokens",
    "candidatesTokenCount",
    "eval_count",
    "outputTokens",
    "completionTokens",
)
_TOTAL = ("total_tokens", "totalTokenCount", "totalTokens")
_REASONING = ("reasoning_tokens", "thoughtsTokenCount")
_CACHED = (
    "cached_tokens",
    "prompt_cache_hit_tokens",
    "cache_read_input_tokens",
    "num_cached_tokens",
    "cachedContentTokenCount",
    "cacheReadInputTokens",
)
_OPENAI = {"prompt_tokens", "completion_tokens", "total_tokens"}
_CACHE_MISSES = ("prompt_cache_miss_tokens",)
_WRITTEN_TO_CACHE = ("cache_creation_input_tokens", "cacheWriteInputTokens")
_OUTSIDE_INPUT = ("cache_read_input_tokens", "cache_creation_input_tokens")  # not counted in `input_tokens`
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details", "completion_token_details")


@dataclass(frozen=True, slots=True)
class Usage:
    """Token usage of one request. None means unknown.

    Attributes:
        cached_tokens: number of prompt tokens read from the provider's cache; 0 if not reported, so that all are priced
            as uncached.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0

    @property
    def known(self) -> bool:
        """Whether the provider reported any count."""
        return self.prompt_tokens is not None or self.completion_tokens is not None

    @property
    def billed(self) -> bool:
        """Whether the provider reported a count above 0."""
        return bool(self.prompt_tokens or self.completion_tokens)

    def zeros_unknown(self) -> Usage:
        """The same usage with zeros as None: for a response with text, a count of 0 is wrong and must not be taken as
        "free".
        """
        if self.prompt_tokens and self.completion_tokens:
            return self
        return Usage(self.prompt_tokens or None, self.completion_tokens or None, self.cached_tokens)

    def following(self, earlier: Usage) -> Usage:
        """Merge this report from a stream with an earlier one; a count is never reset to 0."""
        return Usage(
            self.prompt_tokens or _known(earlier.prompt_tokens, self.prompt_tokens),
            self.completion_tokens or _known(earlier.completion_tokens, self.completion_tokens),
            self.cached_tokens or earlier.cached_tokens,
        )


_UNKNOWN = Usage()


def read_usage(answer: Mapping[str, Any]) -> Usage:
    """The usage in a response or stream event. A missing or malformed count is None."""
    if isinstance(usage := answer.get("usage"), dict) and (usual := _openai_usage(usage)) is not None:
        return usual
    for usage in _usage_objects(answer):
        found = _read(usage)
        if found.known:
            return found
    return _UNKNOWN


def token_count(value: object) -> int | None:
    """Parse a token count, also from a float or string; None if it is malformed or negative."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = float(value.replace(",", ""))
        except ValueError:
            return None
    if isinstance(value, float) and math.isfinite(value):
        value = math.ceil(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_TOKENS:
        return None
    return value


def _usage_objects(answer: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """A response's possible usage objects, the most likely first."""
    if isinstance(usage := answer.get("usage"), Mapping):
        yield usage
        if isinstance(billed := usage.get("billed_units"), Mapping):
            yield billed
    if isinstance(usage := answer.get("usageMetadata"), Mapping):
        yield usage
    if isinstance(groq := answer.get("x_groq"), Mapping) and isinstance(usage := groq.get("usage"), Mapping):
        yield usage
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and isinstance(usage := choice.get("usage"), Mapping):
            yield usage
    if "eval_count" in answer:
        yield answer


def _openai_usage(usage: dict[str, Any]) -> Usage | None:
    """Fast path for usage with only OpenAI's three counts; None for any other."""
    if usage.keys() != _OPENAI:
        return None
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    if type(prompt) is not int or type(completion) is not int or usage["total_tokens"] != prompt + completion:
        return None
    return Usage(prompt, completion) if 0 <= prompt <= _MAX_TOKENS and 0 <= completion <= _MAX_TOKENS else None


def _read(usage: Mapping[str, Any]) -> Usage:
    prompt, completion = _first(usage, _PROMPT), _first(usage, _COMPLETION)
    total = _first(usage, _TOTAL)
    reasoning = _detail(usage, _COMPLETION_DETAILS, _REASONING)
    cached = _detail(usage, _PROMPT_DETAILS, _CACHED) or 0
    if prompt is None:
        prompt = _derived_prompt_tokens(usage, cached, total, completion)
    elif "input_tokens" in usage and _first(usage, _PROMPT[:1]) is None:
        prompt += sum(token_count(usage.get(name)) or 0 for name in _OUTSIDE_INPUT)
    if prompt is not None and cached > prompt:
        prompt += cached  # cached tokens cannot exceed the prompt, so this provider counts them separately
    if prompt is not None and (written := _first(usage, _WRITTEN_TO_CACHE) or 0) > prompt:
        prompt += written  # likewise for tokens written to the cache
    if completion is not None and reasoning is not None and reasoning > completion:
        completion += reasoning  # likewise for reasoning tokens, which are billed as output
    if prompt is not None and total is not None:
        completion = max(completion or 0, total - prompt)
    if completion is None:
        completion = reasoning
    return Usage(_bounded(prompt), _bounded(completion), cached)


def _derived_prompt_tokens(
    usage: Mapping[str, Any], cached: int, total: int | None, completion: int | None
) -> int | None:
    """Derive prompt tokens that were not reported: from cache hits and misses, or as total minus completion."""
    if (missed := _first(usage, _CACHE_MISSES)) is not None:
        return cached + missed
    return max(0, total - completion) if total is not None and completion is not None else None


def _first(usage: Mapping[str, Any], names: Iterable[str]) -> int | None:
    for name in names:
        if (count := token_count(usage.get(name))) is not None:
            return count
    return None


def _detail(usage: Mapping[str, Any], details: Iterable[str], names: Iterable[str]) -> int | None:
    """Find a count that OpenAI reports in a details object and other providers report next to the totals."""
    for name in details:
        if isinstance(detail := usage.get(name), Mapping) and (count := _first(detail, names)) is not None:
            return count
    return _first(usage, names)


def _known(count: int | None, default: int | None) -> int | None:
    return default if count is None else count


def _bounded(count: int | None) -> int | None:
    return count if count is None or count <= _MAX_TOKENS else None
