"""How many tokens a text has: exact for OpenAI's models, offline; otherwise a stated approximation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import toktok

from core.cost.prices import tuned_base

# Which models read with which vocabulary (OpenAI cookbook, "How to count tokens"). First match wins.
_ENCODINGS = (
    (re.compile(r"gpt-oss.*"), "o200k_harmony"),
    (re.compile(r"(gpt-4o|gpt-4\.1|gpt-4\.5|gpt-[5-9]|chatgpt-|o[1-9]).*"), "o200k_base"),
    (re.compile(r"(gpt-3\.5|gpt-35|gpt-4|davinci-002|babbage-002).*"), "cl100k_base"),
)
_NEAREST = "o200k_base"  # the widest vocabulary at hand; Gemma's and Qwen's counts for Chinese are within about 20 %


@dataclass(frozen=True, slots=True)
class TokenCount:
    """`tokens`, and whether that is what the provider will count (`exact`) or an approximation.

    `unanswered`: an approximation only because the model's own tokenizer, a request away, failed; ask again.
    """

    tokens: int
    exact: bool
    unanswered: bool = False


def count(texts: Sequence[str], model: str) -> TokenCount:
    """Tokens of all `texts` together, as `model` (or the base it was tuned from) reads them.

    Chat models add a few tokens of markup per message, which are not counted here.
    """
    encoding = encoding_of(model)
    return TokenCount(sum(toktok.batch_count(texts, encoding or _NEAREST)), exact=encoding is not None)


@dataclass(frozen=True, slots=True)
class DatasetTokens:
    """Tokens of a data set as one model reads it: an average example's prompt and completion, and all of them."""

    prompt_each: int
    completion_each: int
    total: int
    examples: int
    exact: bool


def measure(prompts: Sequence[str], completions: Sequence[str], model: str) -> DatasetTokens:
    """Count a data set's prompts and completions; averages are rounded to whole tokens.

    Raises:
        ValueError: there are no examples, or not as many prompts as completions.
    """
    if not prompts or len(prompts) != len(completions):
        raise ValueError("a data set has as many prompts as completions, and at least one")
    read, written = count(prompts, model), count(completions, model)
    n = len(prompts)
    return DatasetTokens(
        round(read.tokens / n), round(written.tokens / n), read.tokens + written.tokens, n, read.exact and written.exact
    )


def encoding_of(model: str) -> str | None:
    """Name of the model's vocabulary, or None when it is not known."""
    name = tuned_base(model) or model
    return next((encoding for pattern, encoding in _ENCODINGS if pattern.fullmatch(name)), None)
