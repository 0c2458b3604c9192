"""Garbage collections stay short, and nothing leaks."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from core import gc_tuning


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def aside() -> Iterator[Callable[[float], None]]:
    """Install a freezer for which every collection counts as long, with this unfreeze interval in seconds."""
    before, gc.callbacks[:] = list(gc.callbacks), []

    def begin(unfreeze_interval_s: float) -> None:
        gc.callbacks[:] = [gc_tuning.GcFreezer(freeze_after_s=0.0, unfreeze_interval_s=unfreeze_interval_s)]

    yield begin
    gc.callbacks[:] = before
    gc.unfreeze()


def test_what_survives_a_long_collection_is_not_looked_at_again(aside: Callable[[float], None]) -> None:
    aside(3_600.0)
    before = gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() > before + 1_000
    assert len(gc.get_objects()) < 1_000


def test_what_dies_after_it_was_set_aside_is_found_later(aside: Callable[[float], None]) -> None:
    aside(3_600.0)
    ring = Ring()
    seen = weakref.ref(ring)
    gc.collect()  # freezes it
    del ring
    gc.collect()
    assert seen() is not None
    aside(-1.0)
    gc.collect()
    assert seen() is None


def test_short_collections_set_nothing_aside() -> None:
    one = gc_tuning.GcFreezer(freeze_after_s=1_000.0)
    before = gc.get_freeze_count()
    one("start", {"generation": 2})
    one("stop", {"generation": 2})
    assert gc.get_freeze_count() == before


def test_it_is_set_up_once() -> None:
    before, gc.callbacks[:] = list(gc.callbacks), []
    try:
        gc_tuning.freeze_long_lived()
        gc_tuning.freeze_long_lived()
        assert len(gc.callbacks) == 1
    finally:
        gc.callbacks[:] = before
