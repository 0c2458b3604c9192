"""Mixes: exact shares, unchanged rows, and their origin."""

from __future__ import annotations

from collections import Counter

import pytest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, export, mixing, versions
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import BadTrainingFile, NotFound
from tests.support.ledger_rows import put_dataset


def from_where(store: Store, mix_id: str, *, held_out: bool = False) -> Counter[str]:
    with store.reading() as session:
        rows = session.query(Row).filter_by(dataset_id=mix_id).all()
        return Counter(row.key.split(":")[0] for row in rows if (row.split == "held_out") is held_out)


@pytest.mark.parametrize(
    ("shares", "size", "rows"),
    [
        ((1, 1), 50, (25, 25)),
        ((2, 1), 50, (33, 17)),
        ((0.9, 0.1), 21, (19, 2)),
        ((60, 40), None, (42, 28)),
        ((1, 1), None, (28, 28)),
    ],
)
def test_shares_are_met_exactly(
    store: Store, shares: tuple[float, float], size: int | None, rows: tuple[int, int]
) -> None:
    a, b = put_dataset(store, "a", 20, 5), put_dataset(store, "b", 10, 3)
    parts = list(zip((a, b), shares, strict=True))
    assert tuple(part.rows for part in mixing.plan(store, parts, size)) == rows
    mix_id = mixing.mix(store, LOCAL, "both", parts, 1, size)
    assert from_where(store, mix_id) == Counter(dict(zip((a, b), rows, strict=True)))
    assert from_where(store, mix_id, held_out=True) == {a: 2, b: 2}
    one = datasets.summary(store, mix_id)
    assert (one.name, one.source, one.columns, one.done) == ("both", "mix", ("x", "y"), sum(rows) + 4)


def test_rows_come_evenly_from_the_cells_and_the_same_ones_every_time(store: Store) -> None:
    a, b = put_dataset(store, "a", 10, 6), put_dataset(store, "b", 10, 6)
    first, second = (mixing.mix(store, LOCAL, "m", [(a, 1), (b, 1)], 3, 40) for _ in range(2))
    drawn = dataset_rows.page(store, first, limit=100)
    assert [r.text for r in drawn] == [r.text for r in dataset_rows.page(store, second, limit=100)]
    learned = Counter(prompt for prompt, _ in export.examples(store, first))
    assert max(learned.values()) - min(learned.values()) <= 1 and len(learned) == 20
    assert len({prompt[0] for prompt, _ in export.examples(store, first)[:12]}) == 2  # not one after the other
    other = mixing.mix(store, LOCAL, "m", [(a, 1), (b, 1)], 4, 40)
    assert {r.text for r in dataset_rows.page(store, other, limit=100)} != {r.text for r in drawn}


def test_each_row_keeps_the_prompt_of_its_own_data_set(store: Store) -> None:
    a, b = put_dataset(store, "a", 4, 2), put_dataset(store, "b", 4, 2, ("y", "z"))
    mix_id = mixing.mix(store, LOCAL, "", [(a, 1), (b, 1)])
    assert datasets.summary(store, mix_id).columns == ("prompt",)
    assert datasets.summary(store, mix_id).name == "a + b"
    learned = {*export.examples(store, a), *export.examples(store, b)}
    assert set(export.examples(store, mix_id)) == learned
    assert dataset_rows.page(store, mix_id)[0].values.keys() >= {"prompt", "y"}


def test_a_mix_records_its_parts_and_can_be_mixed_again(store: Store) -> None:
    a, b, c = put_dataset(store, "a", 4, 2), put_dataset(store, "b", 4, 2), put_dataset(store, "c", 4, 2)
    mix_id = mixing.mix(store, LOCAL, "m", [(a, 3), (b, 1)], seed=5)
    with store.reading() as session:
        parts = session.get_one(Dataset, mix_id).mix_sources
    assert parts is not None and (parts["seed"], parts["size"]) == (5, 8)
    assert [(p["dataset_id"], p["rows"], p["share"]) for p in parts["parts"]] == [(a, 6, 0.75), (b, 2, 0.25)]
    second = mixing.mix(store, LOCAL, "again", [(mix_id, 1), (c, 1)])
    assert from_where(store, second) == {mix_id: 6, c: 6}
    version = versions.get(store, versions.freeze(store, LOCAL, second, validation_share=0.25))
    assert (version.n_train, version.n_validation, version.n_held_out) == (9, 3, 6)


def test_mixes_of_mixes_of_mixes_keep_every_row_apart(store: Store) -> None:
    mix_id = put_dataset(store, "a", 20, 2)
    for turn in range(5):
        mix_id = mixing.mix(store, LOCAL, f"m{turn}", [(mix_id, 1), (put_dataset(store, f"b{turn}", 20, 2), 1)])
    assert datasets.summary(store, mix_id).done > 76


def test_an_impossible_mix_is_refused_with_a_reason(store: Store) -> None:
    a, b = put_dataset(store, "a", 4, 2), put_dataset(store, "b", 4, 2)
    empty = put_dataset(store, "empty", 1, 2)
    for parts, size, words in (
        ([(a, 1.0)], None, "at least two data sets"),
        ([(a, 1.0), (a, 1.0)], None, "each of them once"),
        ([(a, 1.0), (b, 0.0)], None, "share above 0"),
        ([(a, 1.0), (b, float("nan"))], None, "share above 0"),
        ([(a, 1.0), (b, 1.0)], 13, "1 to 12 rows"),
        ([(a, 1.0), (b, 1.0)], 0, "1 to 12 rows"),
        ([(a, 1.0), (empty, 1.0)], None, "empty has no finished rows"),
    ):
        with pytest.raises(BadTrainingFile, match=words) as caught:
            mixing.mix(store, LOCAL, "m", parts, size=size)
        assert caught.value.next_step
    with pytest.raises(NotFound):
        mixing.mix(store, LOCAL, "m", [(a, 1), ("gone", 1)])
    assert len(datasets.list_datasets(store)) == 3
