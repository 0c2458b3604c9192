"""Log-probabilities in OpenAI's two formats: of completions and of chat completions. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from core.engine.serving.token_probs import TokenProb


def of_completion(tokens: Sequence[TokenProb], n_top: int, offset: int) -> dict[str, Any]:
    """The `logprobs` of a completion's choice; `offset` is where the text of its first token begins."""
    offsets = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # all parts of a character begin where it begins
    for token in tokens:
        offsets.append(offset)
        offset += len(decoder.decode(token.raw))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_alternatives(token, n_top) for token in tokens] if n_top else None,
        "text_offset": offsets,
    }


def length(tokens: Sequence[TokenProb]) -> int:
    """How many characters of text tokens have together."""
    return len(b"".join(token.raw for token in tokens).decode(errors="replace"))


def _alternatives(token: TokenProb, n_top: int) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    return {**{one.text: one.logprob for one in token.top[:n_top]}, token.text: token.logprob}


def of_chat(tokens: Sequence[TokenProb], n_top: int) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""
    content = [{**_entry(token), "top_logprobs": [_entry(one) for one in token.top[:n_top]]} for token in tokens]
    return {"content": content, "refusal": None}


def _entry(token: TokenProb) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}
