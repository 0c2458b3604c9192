"""Versions, mixes and files on a real PostgreSQL: the same code, another database."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.actor import LOCAL
from core.datasets import datasets, export, mixing, versions
from core.db.store import Store
from core.settings import Settings
from tests.support.ledger_rows import put_dataset
from tests.support.waiting import at_once


@pytest.fixture
def settings(on_postgres: Settings) -> Settings:
    return on_postgres


def test_a_mix_is_frozen_once_and_written(store: Store, tmp_path: Path) -> None:
    a, b = put_dataset(store, "a", 20, 5), put_dataset(store, "b", 10, 3)
    mix_id = mixing.mix(store, LOCAL, "both", [(a, 2), (b, 1)], seed=1)
    before = datasets.fingerprint(store, mix_id)
    assert datasets.split_counts(store, mix_id) == {None: 84, "held_out": 4}
    (made,) = set(at_once(4, lambda: versions.freeze(store, LOCAL, mix_id, validation_share=0.25)))
    version = versions.get(store, made)
    assert (version.n_train, version.n_validation, version.n_held_out) == (63, 21, 4)
    selection = export.Selection(store, mix_id, version.id)
    assert len(list(export.jsonl_lines(selection, export.plan(selection)))) == 63
    assert export.write_parquet(store, mix_id, tmp_path / "x.parquet") == 88
    assert export.to_csv(store, mix_id).count("held_out") == 4
    assert datasets.fingerprint(store, mix_id) == before
