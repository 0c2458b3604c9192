"""The split: exact, by cell, reproducible, and stable when rows are added."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.datasets import splitting
from core.errors import FabulaError


def grid(cells: int, repeats: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Keys and cells of a grid."""
    names: list[tuple[str, ...]] = [(f"cell {c}",) for c in range(cells) for _ in range(repeats)]
    return [f"{name[0]}/{i % repeats}" for i, name in enumerate(names)], names


@pytest.mark.parametrize(
    ("cells", "repeats", "share", "count"),
    [(162, 3, 0.2, 97), (162, 1, 0.1, 16), (1, 1, 0.5, 0), (3, 4, 0.25, 3), (10, 10, 0.0, 0), (7, 9, 0.9, 57)],
)
def test_the_share_is_met_exactly_and_in_every_cell(cells: int, repeats: int, share: float, count: int) -> None:
    keys, names = grid(cells, repeats)
    selected = splitting.split(keys, names, share=share, seed=1)
    assert sum(selected) == count
    by_cell = Counter(name for name, keep in zip(names, selected, strict=True) if keep)
    assert all(abs(by_cell[name] - count / cells) < 1 for name in set(names))


def test_the_same_rows_are_kept_whatever_their_order_and_others_with_another_seed() -> None:
    keys, names = grid(20, 10)
    selected = {key for key, keep in zip(keys, splitting.split(keys, names, share=0.3, seed=7), strict=True) if keep}
    turned = splitting.split(keys[::-1], names[::-1], share=0.3, seed=7)
    assert selected == {key for key, keep in zip(keys[::-1], turned, strict=True) if keep}
    other = splitting.split(keys, names, share=0.3, seed=8)
    assert selected != {key for key, keep in zip(keys, other, strict=True) if keep}


def test_new_rows_move_few_old_ones() -> None:
    keys, names = grid(50, 10)
    before = dict(zip(keys, splitting.split(keys, names, share=0.2, seed=1), strict=True))
    more_keys, more_names = [*keys, "cell 0/10", "cell 0/11"], [*names, ("cell 0",), ("cell 0",)]
    after = dict(zip(more_keys, splitting.split(more_keys, more_names, share=0.2, seed=1), strict=True))
    moved = [key for key in keys if before[key] != after[key]]
    assert len(moved) <= 2 and all(key.startswith("cell 0/") for key in moved)


def test_rows_that_say_the_same_stay_together_and_the_share_is_met_all_the_same() -> None:
    keys, names = grid(20, 10)
    alike = [f"text {i}" for i in range(len(keys))]
    for twins in range(0, 150, 3):  # a third of the rows in pairs, some of them across cells
        alike[twins + 1] = alike[twins]
    selected = splitting.split(keys, names, share=0.2, seed=3, content=alike)
    parts = {what: {keep for one, keep in zip(alike, selected, strict=True) if one == what} for what in alike}
    assert all(len(found) == 1 for found in parts.values())
    assert sum(selected) == 40
    by_cell = Counter(name for name, keep in zip(names, selected, strict=True) if keep)
    assert all(abs(by_cell[name] - 2) <= 1 for name in set(names))


def test_where_only_copies_are_left_the_share_is_as_near_as_they_allow() -> None:
    keys, names = grid(1, 9)
    selected = splitting.split(
        keys, names, share=0.5, seed=1, content=["a"] * 3 + ["b"] * 3 + ["c"] * 3
    )  # 4 are wanted
    assert sum(selected) == 3
    assert sum(splitting.split(keys, names, share=0.5, seed=1, content=["a"] * 9)) == 0


def test_without_copies_nothing_changes() -> None:
    keys, names = grid(20, 10)
    assert splitting.split(keys, names, share=0.3, seed=7, content=keys) == splitting.split(
        keys, names, share=0.3, seed=7
    )


@pytest.mark.parametrize("share", [-0.1, 0.95, float("nan")])
def test_a_share_out_of_bounds_is_told(share: float) -> None:
    with pytest.raises(FabulaError, match=r"between 0 and 0\.9") as caught:
        splitting.split(["a"], [("c",)], share=share, seed=0)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("values", "completions", "wanted"),
    [
        ([("a", "x"), ("a", "x"), ("a", "y"), ("a", "y")], "1234", [("a", "x"), ("a", "x"), ("a", "y"), ("a", "y")]),
        ([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")], "1234", [("a",), ("a",), ("b",), ("b",)]),
        ([("m1",), ("m2",), ("m3",), ("m4",)], ["yes", "no", "yes", "no"], [("yes",), ("no",), ("yes",), ("no",)]),
        ([("m1",), ("m2",)], ["one", "two"], [(), ()]),
        ([], [], []),
    ],
)
def test_rows_are_split_by_cell_or_by_what_is_coarser(
    values: list[tuple[str, ...]], completions: list[str], wanted: list[tuple[str, ...]]
) -> None:
    assert splitting.strata(values, list(completions)) == wanted


@given(st.lists(st.integers(0, 1_000), min_size=1).filter(any), st.integers(0, 10_000))
def test_largest_remainders_are_exact_and_within_one(weights: list[int], total: int) -> None:
    given_out = splitting.apportion(weights, total)
    assert sum(given_out) == total
    exact = [weight * total / sum(weights) for weight in weights]
    assert all(abs(got - want) < 1 + 1e-6 for got, want in zip(given_out, exact, strict=True))


@given(st.lists(st.integers(0, 5), max_size=60), st.floats(0, 0.9), st.integers())
def test_whatever_the_cells_the_count_is_right(cells: list[int], share: float, seed: int) -> None:
    keys = [str(i) for i in range(len(cells))]
    selected = splitting.split(keys, [(str(cell),) for cell in cells], share=share, seed=seed)
    assert sum(selected) == round(share * len(cells))
