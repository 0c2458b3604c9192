"""Prompts of completions, and the other texts that a model reads: a text or token ids, and their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from core.engine.api.errors import bad_value
from core.engine.serving.generate import count_tokens
from core.engine.serving.llama import Backend, BaseModel
from core.engine.serving.llama_errors import too_long, too_much
from core.message import msg

Prompt: TypeAlias = "str | list[int]"
_MAX_PROMPTS = 128
_CHARS_PER_TOKEN = 5  # about as many as in English text


def parse(raw: object) -> tuple[Prompt, ...]:
    """Parse `prompt`: a text, a list of texts, a list of token ids, or a list of such lists. Raises ApiError 400."""
    if raw is None:
        return ("",)
    if isinstance(raw, str):
        return (raw,)
    if isinstance(raw, list):
        if is_tokens(raw):
            return (raw,)
        if 0 < len(raw) <= _MAX_PROMPTS and all(isinstance(prompt, str) or is_tokens(prompt) for prompt in raw):
            return tuple(raw)
    raise bad_value(
        "prompt",
        msg(
            "'prompt' must be a string, token ids, or a list of at most {max_prompts} of these.",
            max_prompts=_MAX_PROMPTS,
        ),
    )


def is_tokens(value: object) -> bool:
    """Whether a value is a list of token ids."""
    return isinstance(value, list) and bool(value) and all(type(one) is int and 0 <= one < 2**31 for one in value)


def of_nothing(base: BaseModel) -> Prompt:
    """The prompt of a request without one: the start of a text, or for a model without that token the end of the
    previous text, as at OpenAI (`<|endoftext|>`). llama.cpp does not generate from nothing at all.
    """
    return "" if base.card.bos is not None else [base.card.eos]


def check_vocabulary(prompts: Sequence[Prompt], base: BaseModel, param: str) -> None:
    """Raise ApiError 400 for a token id outside the model's vocabulary."""
    highest = max((max(prompt) for prompt in prompts if not isinstance(prompt, str)), default=0)
    if highest >= base.card.vocab_size:
        raise bad_value(
            param,
            msg(
                "'{name}' contains a token id that is not in the model's vocabulary: {highest}.",
                name=param,
                highest=highest,
            ),
        )


async def check_lengths(backend: Backend, prompts: Sequence[Prompt], answer: int, param: str) -> None:
    """Raise ApiError 400 for a prompt that, with `answer` tokens after it, exceeds the context."""
    base = backend.base
    own = base.card.context_length if base.is_limited else None
    for prompt in prompts:
        if not isinstance(prompt, str):
            tokens = len(prompt)
        elif len(prompt.encode()) + 2 + answer <= base.context:  # a token has at least a byte; 2: <bos>, leading space
            continue
        else:
            tokens, rest = await _count(backend, prompt, 2 * base.context)
            tokens += base.card.bos is not None
            if rest:
                raise too_long(base.context, msg("more than {tokens}", tokens=tokens), own, param)
        if tokens >= base.context:
            raise too_long(base.context, tokens, own, param)
        if tokens + answer > base.context:
            raise too_much(base.context, tokens, answer, own, param)


async def _count(backend: Backend, text: str, enough: int) -> tuple[int, str]:
    """The number of tokens in a text and its rest, which is not counted once there are `enough` tokens: llama.cpp takes
    seconds for each megabyte.
    """
    n_chars = enough * _CHARS_PER_TOKEN
    while n_chars < len(text):
        if (tokens := await count_tokens(backend, text[:n_chars])) >= enough:
            return tokens, text[n_chars:]
        n_chars *= 2
    return await count_tokens(backend, text), ""
