"""Repeats of one cell share a request (`n`): grouping of claims, and splitting of tokens and cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

from core.generation.row_store import Claim
from core.providers import Choice, Completion

MAX_SHARED = 8  # answers in one request: a broken connection means at most eight retries
_COST_UNIT = Decimal("1e-12")  # US dollars; a token costs at least a thousand times as much


def group_claims(claims: Iterable[Claim], max_size: int) -> list[tuple[Claim, ...]]:
    """Claims in groups of equal prompts, at most `max_size` per group, in their original order."""
    groups: list[list[Claim]] = []
    open_groups: dict[str, list[Claim]] = {}
    for claim in claims:
        group = open_groups.get(claim.prompt) if max_size > 1 else None
        if group is None or len(group) >= max_size:
            groups.append(group := [])
            open_groups[claim.prompt] = group
        group.append(claim)
    return [tuple(group) for group in groups]


def split_completion(answer: Completion, expected: int) -> list[Completion]:
    """One completion for each text, up to `expected`, at least one. Their tokens add up to those of the answer."""
    if expected == 1:
        return [answer]
    texts: list[tuple[Choice, ...]] = [(text,) for text in answer.texts[:expected]] or [()]
    prompt, completion = (split_tokens(t, len(texts)) for t in (answer.prompt_tokens, answer.completion_tokens))
    return [
        replace(answer, texts=text, prompt_tokens=used, completion_tokens=written)
        for text, used, written in zip(texts, prompt, completion, strict=True)
    ]


def split_tokens(total: int | None, parts: int) -> Sequence[int | None]:
    """`total` in whole parts; the first part gets the remainder. None: unknown."""
    if total is None:
        return [None] * parts
    each, remainder = divmod(total, parts)
    return [each + remainder] + [each] * (parts - 1)


def split_cost(total: Decimal | None, parts: int) -> Sequence[Decimal | None]:
    """`total` in parts that add up to it exactly; the first part gets the remainder. None: unknown."""
    if total is None or parts == 1:
        return [total] * parts
    each = (total / parts).quantize(_COST_UNIT, rounding="ROUND_DOWN")
    return [total - each * (parts - 1)] + [each] * (parts - 1)
