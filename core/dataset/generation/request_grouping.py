"""Repeats of one cell share a request (`n`): who goes together, and how what it took is divided. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

from core.dataset.generation.row_store import Claim
from core.providers import Choice, Completion

MOST_SHARED = 8  # answers in one request: one that breaks off costs eight rows a second try, not a hundred
_SMALLEST = Decimal("1e-12")  # US dollars; a token costs at least a thousand times that


def group_claims(claims: Iterable[Claim], most: int) -> list[tuple[Claim, ...]]:
    """The claims in groups of equal prompts, at most `most` in each, in the order in which they came."""
    groups: list[list[Claim]] = []
    open_groups: dict[str, list[Claim]] = {}
    for claim in claims:
        group = open_groups.get(claim.prompt) if most > 1 else None
        if group is None or len(group) >= most:
            groups.append(group := [])
            open_groups[claim.prompt] = group
        group.append(claim)
    return [tuple(group) for group in groups]


def split_completion(answer: Completion, wanted: int) -> list[Completion]:
    """One completion for each text that came, up to `wanted`, at least one; their tokens add up to the answer's."""
    if wanted == 1:
        return [answer]
    texts: list[tuple[Choice, ...]] = [(text,) for text in answer.texts[:wanted]] or [()]
    prompt, completion = (split_tokens(t, len(texts)) for t in (answer.prompt_tokens, answer.completion_tokens))
    return [
        replace(answer, texts=text, prompt_tokens=used, completion_tokens=written)
        for text, used, written in zip(texts, prompt, completion, strict=True)
    ]


def split_tokens(total: int | None, parts: int) -> Sequence[int | None]:
    """`total` in whole parts; what is left over is the first one's. None: unknown."""
    if total is None:
        return [None] * parts
    each, rest = divmod(total, parts)
    return [each + rest] + [each] * (parts - 1)


def split_cost(total: Decimal | None, parts: int) -> Sequence[Decimal | None]:
    """`total` in parts that add up to it exactly; what is left over is the first one's. None: unknown."""
    if total is None or parts == 1:
        return [total] * parts
    each = (total / parts).quantize(_SMALLEST, rounding="ROUND_DOWN")
    return [total - each * (parts - 1)] + [each] * (parts - 1)
