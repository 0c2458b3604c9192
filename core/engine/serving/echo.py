"""The parameter `echo` of completions: the prompt as the beginning of the answer, with its log-probabilities."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

from core.engine.serving import llama_http, token_probs
from core.engine.serving.generate import GeneratedChunk, GenerationEnd, count_tokens, llama_error
from core.engine.serving.llama import Backend


async def beginning(backend: Backend, prompt: str | list[int], logprobs: int | None) -> GeneratedChunk:
    """The prompt as a chunk.

    Args:
        logprobs: of how many other tokens log-probabilities are wanted; None for none at all.

    Raises:
        ApiError: llama.cpp failed.
    """
    try:
        text = prompt if isinstance(prompt, str) else await token_probs.text_of(backend, prompt)
        tokens = [] if logprobs is None else await token_probs.of_prompt(backend, prompt, logprobs)
    except (llama_http.ServerRefused, llama_http.ConnectionBroken) as exc:
        raise llama_error(exc) from exc
    return GeneratedChunk(text, tokens=tuple(tokens))


async def no_tokens(backend: Backend, prompt: str | list[int]) -> AsyncGenerator[GeneratedChunk, None]:
    """A generation of no tokens, for `max_tokens: 0`. Raises ApiError."""
    if isinstance(prompt, str):
        n_prompt = await count_tokens(backend, prompt) + (backend.base.card.bos is not None)
    else:
        n_prompt = len(prompt)
    yield GeneratedChunk("", GenerationEnd("length", n_prompt, 0, None))


def joined(start: GeneratedChunk, rest: GeneratedChunk) -> GeneratedChunk:
    """Two chunks as one."""
    return replace(rest, text=start.text + rest.text, tokens=start.tokens + rest.tokens)
