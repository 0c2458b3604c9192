"""The estimate of a run: a guess until a preview has measured, and a range of requests."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from core.datasets.recipe import Column, Recipe
from core.generation.previewing import PreviewRow, estimate_run, request_range
from core.pricing.price_book import PriceBook, cost_of

_BOOK = PriceBook.load()
_HERE = Recipe(
    "heroes",
    (Column("hero", ("tang", "song")), Column("gift", ("flying", "healing", "glowing"))),
    "A story about {hero}, {gift}.",
    provider="engine",
    model="storyteller-en",
    max_tokens=400,
)
_PAID = replace(_HERE, provider="openai", model="gpt-4o-mini")


def _texts(*seconds: float) -> list[PreviewRow]:
    return [PreviewRow({}, "prompt", "text", None, "stop", 20, 100, each) for each in seconds]


def test_without_a_preview_a_typical_length_is_guessed_within_the_limit() -> None:
    guess, short = estimate_run(_HERE, _BOOK, [], None), estimate_run(replace(_HERE, max_tokens=10), _BOOK, [], None)
    assert guess.tokens - short.tokens == 6 * (260 - 10)
    assert guess.local and guess.seconds is None


def test_a_preview_replaces_the_guess() -> None:
    found = estimate_run(_PAID, _BOOK, _texts(2.0, 4.0), None, parallel=4)
    assert found.tokens == 6 * (20 + 100)
    assert found.usd == 6 * (cost_of(_BOOK, "openai", "gpt-4o-mini", 20, 100) or Decimal("NaN"))
    assert found.seconds == 3.0 * 2  # six rows, four at a time: two rounds of the mean time


def test_the_measured_speed_of_the_engine_comes_before_the_times_of_a_preview() -> None:
    found = estimate_run(_HERE, _BOOK, _texts(30.0), 40.0)
    assert found.seconds is not None and found.seconds < 30


def test_a_batch_has_its_own_price_and_no_duration() -> None:
    found, live = (estimate_run(_PAID, _BOOK, _texts(2.0), None, batch=batch) for batch in (True, False))
    assert found.seconds is None and live.seconds is not None
    assert found.usd is not None and live.usd is not None and found.usd < live.usd


@pytest.mark.parametrize(
    ("repeats", "seed", "batch", "expected"),
    [
        (1, None, False, (6, 6)),
        (8, None, False, (6, 48)),  # eight answers share one request
        (9, None, False, (12, 54)),
        (9, 7, False, (54, 54)),  # each row has a seed of its own
        (9, None, True, (54, 54)),
    ],
)
def test_repeats_of_a_cell_can_share_a_request(
    repeats: int, seed: int | None, batch: bool, expected: tuple[int, int]
) -> None:
    assert request_range(replace(_HERE, repeats=repeats, seed=seed), batch=batch) == expected
