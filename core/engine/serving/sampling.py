"""Converts OpenAI's sampling parameters to llama.cpp's. Unsupported ones are rejected, not ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from core.engine.api.errors import ApiError, bad_value
from core.engine.api.requests import boolean, integer, number, reject_unknown
from core.engine.chat_messages import is_missing
from core.message import msg

_MAX_CHOICES = 128
_MAX_STOPS = 4
_MAX_SEED = 2**63 - 1
_MAX_LOGPROBS = 5  # of a completion, and of chat's `top_logprobs`; both are OpenAI's
_MAX_TOP_LOGPROBS = 20
_SEEDS = 2**32 - 1  # llama.cpp's seeds have 32 bits, and the highest value means "random"
_COMMON = frozenset(
    [
        "model",
        "n",
        "stream",
        "stream_options",
        "stop",
        "temperature",
        "top_p",
        "max_tokens",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "user",
    ]
)
_COMPLETION = _COMMON | frozenset(["prompt", "suffix", "echo", "best_of", "logprobs"])
_CHAT = _COMMON | frozenset(
    [
        "messages",
        "max_completion_tokens",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "modalities",
        "audio",
        "prediction",
        "metadata",
        "store",
        "service_tier",
        "reasoning_effort",
        "verbosity",
        "web_search_options",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "moderation",
    ]
)
# Unsupported parameters that would change the result, and the values that are accepted because they have no effect.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "suffix": (),
    "functions": (),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
}
_ENABLED_BY_EMPTY = frozenset({"web_search_options"})  # at OpenAI, `{}` enables this parameter


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters.

    Attributes:
        n: completions per prompt.
        stream: whether to stream the response.
        include_usage: whether to end the stream with the usage.
        seed: seed for the first completion (incremented for each further one); None means random.
        options: the other parameters, under llama.cpp's names.
        logprobs: whether to return log-probabilities, and of how many other tokens at each place; None for none.
        echo: whether to begin the answer with the prompt.
    """

    n: int
    stream: bool
    include_usage: bool
    seed: int | None
    options: dict[str, Any]
    logprobs: int | None = None
    echo: bool = False

    @property
    def is_concurrent(self) -> bool:
        """Whether several completions may be decoded in parallel.

        They may not if a seed is set: llama.cpp decodes parallel requests as one batch, and rounding depends on the
        batch size, so the same seed would give different texts.
        """
        return self.seed is None

    def seed_of(self, choice: int) -> int:
        """llama.cpp's seed for one completion; -1 means random."""
        return -1 if self.seed is None else (self.seed + choice) % _SEEDS


def of_completion(body: Mapping[str, Any]) -> Sampling:
    """Parse the parameters of POST /v1/completions (default: 16 tokens, as at OpenAI). Raises ApiError 400."""
    reject_unknown(body, _COMPLETION)
    echo = boolean(body, "echo")
    sampling = _common(body, integer(body, "max_tokens", 0 if echo else 1, 1 << 20, 16))
    if integer(body, "best_of", 1, _MAX_CHOICES, sampling.n) != sampling.n:
        raise bad_value("best_of", msg("'best_of' other than 'n' is not supported by this engine."))
    wanted = body if body.get("logprobs") is not False else {}
    return _with_logprobs(replace(sampling, echo=echo), integer(wanted, "logprobs", 0, _MAX_LOGPROBS, None))


def of_chat(body: Mapping[str, Any], stop: str) -> Sampling:
    """Parse the parameters of POST /v1/chat/completions; `stop` ends the model's turn. Raises ApiError 400.

    The form of the answer is not among them: `tool_choice.grammar_options`.
    """
    reject_unknown(body, _CHAT)
    limit = integer(body, "max_tokens", 1, 1 << 20, None)
    sampling = _common(body, integer(body, "max_completion_tokens", 1, 1 << 20, limit))
    sampling.options["stop"].append(stop)
    n_top = integer(body, "top_logprobs", 0, _MAX_TOP_LOGPROBS, 0)
    if n_top and not boolean(body, "logprobs"):
        raise bad_value("top_logprobs", msg("'{name}' needs 'logprobs' to be true.", name="top_logprobs"))
    return _with_logprobs(sampling, n_top if boolean(body, "logprobs") else None)


def _with_logprobs(sampling: Sampling, n_top: int | None) -> Sampling:
    if n_top is not None:
        sampling.options["n_probs"] = max(1, n_top)  # with 0, llama.cpp reports none at all
    return replace(sampling, logprobs=n_top)


def _common(body: Mapping[str, Any], max_tokens: int | None) -> Sampling:
    for name, allowed_values in _UNSUPPORTED.items():
        value = body.get(name)
        if value is None or (is_missing(value) and name not in _ENABLED_BY_EMPTY):
            continue
        if not any(type(value) is type(allowed) and value == allowed for allowed in allowed_values):
            message = msg("'{name}' is not supported by this engine.", name=name)
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    seed = integer(body, "seed", -_MAX_SEED - 1, _MAX_SEED, None)
    options: dict[str, Any] = {
        "n_predict": -1 if max_tokens is None else max_tokens,
        "temperature": number(body, "temperature", 0, 2, 1.0),
        "top_p": number(body, "top_p", 0, 1, 1.0),
        "top_k": 0,  # disabled: llama.cpp's default truncates, OpenAI's does not
        "min_p": 0.0,
        "presence_penalty": number(body, "presence_penalty", -2, 2, 0.0),
        "frequency_penalty": number(body, "frequency_penalty", -2, 2, 0.0),
        "stop": _stops(body.get("stop")),
        "logit_bias": _biases(body.get("logit_bias")),
        # Only without a seed: cached prompts are computed in different batches, so results would not be bit-identical.
        "cache_prompt": seed is None,
    }
    stream = boolean(body, "stream")
    n = integer(body, "n", 1, _MAX_CHOICES, 1)
    return Sampling(n, stream, _include_usage(body, stream), seed, options)


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if is_missing(options):
        return False
    if not stream:
        raise bad_value("stream_options", msg("'stream_options' is only allowed when 'stream' is true."))
    if not isinstance(options, dict):
        raise bad_value("stream_options", msg("'stream_options' must be an object."))
    reject_unknown(options, frozenset({"include_usage", "include_obfuscation"}), "stream_options.")
    return boolean(options, "include_usage", "stream_options.")


def _stops(value: object) -> list[str]:
    stops = [] if is_missing(value) else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise bad_value(
            "stop",
            msg("'stop' must be a string or a list of at most {max_stops} non-empty strings.", max_stops=_MAX_STOPS),
        )
    return list(stops)


def _biases(value: object) -> list[list[float]]:
    if is_missing(value):
        return []
    if not isinstance(value, dict):
        raise bad_value("logit_bias", msg("'logit_bias' must be an object that maps token ids to numbers."))
    pairs = []
    for token in value:
        if not (isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10):
            raise bad_value(
                f"logit_bias.{str(token)[:40]}",
                msg("'logit_bias' has a key that is not a token id: {key}.", key=repr(str(token)[:40])),
            )
        pairs.append([int(token), number(value, token, -100, 100, 0.0, "logit_bias.")])
    return pairs
