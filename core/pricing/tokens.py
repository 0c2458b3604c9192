"""Token counts: exact and offline for OpenAI's models, otherwise an approximation that is marked as such."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import toktok

from core.pricing.prices import tuned_base

# Encodings by model (OpenAI cookbook, "How to count tokens"). The first match is used.
_ENCODINGS = (
    (re.compile(r"gpt-oss.*"), "o200k_harmony"),
    (re.compile(r"(gpt-4o|gpt-4\.1|gpt-4\.5|gpt-[5-9]|chatgpt-|o[1-9]).*"), "o200k_base"),
    (re.compile(r"(gpt-3\.5|gpt-35|gpt-4|davinci-002|babbage-002).*"), "cl100k_base"),
)
ROUGH = 1.25
"""An approximate token count may be this much too low."""
_NEAREST = "o200k_base"  # largest available vocabulary; within about 20 % of Gemma's and Qwen's counts for Chinese


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A token count.

    Attributes:
        exact: whether the provider will count the same; False for an approximation.
        unanswered: approximate only because a request to the model's own tokenizer failed; a retry may help.
    """

    tokens: int
    exact: bool
    unanswered: bool = False


def count(texts: Sequence[str], model: str) -> TokenCount:
    """The total tokens of `texts` for `model`, or for its base model if it is tuned.

    The few tokens that chat templates add per message are not counted.
    """
    encoding = encoding_of(model)
    return TokenCount(sum(toktok.batch_count(texts, encoding or _NEAREST)), exact=encoding is not None)


def lengths(texts: Sequence[str], model: str) -> list[int]:
    """The tokens of each text, by the same rules as `count`."""
    return list(toktok.batch_count(texts, encoding_of(model) or _NEAREST))


@dataclass(frozen=True, slots=True)
class DatasetTokens:
    """Token counts of a data set for one model: means per example, and the total."""

    mean_prompt_tokens: int
    mean_completion_tokens: int
    total: int
    examples: int
    exact: bool


def measure(prompts: Sequence[str], completions: Sequence[str], model: str) -> DatasetTokens:
    """Count the tokens of a data set. Means are rounded to whole tokens.

    Raises:
        ValueError: there are no examples, or the lengths differ.
    """
    if not prompts or len(prompts) != len(completions):
        raise ValueError("prompts and completions must have the same length, at least one")
    prompt_count, completion_count = count(prompts, model), count(completions, model)
    n = len(prompts)
    return DatasetTokens(
        round(prompt_count.tokens / n),
        round(completion_count.tokens / n),
        prompt_count.tokens + completion_count.tokens,
        n,
        prompt_count.exact and completion_count.exact,
    )


def encoding_of(model: str) -> str | None:
    """The name of the model's encoding; None if unknown."""
    name = tuned_base(model) or model
    return next((encoding for pattern, encoding in _ENCODINGS if pattern.fullmatch(name)), None)
