"""Versions: frozen, split, equal if nothing has changed, and never trained on held-out rows."""

from __future__ import annotations

import threading

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db.store import Store
from core.db.tables import Row
from core.errors import BadTrainingFile, FabulaError, NotFound


def grid(store: Store, cells: int = 6, repeats: int = 5) -> str:
    """A data set of finished rows."""
    rows = [(f"c{c}", f"story {c}-{r}") for c in range(cells) for r in range(repeats)]
    return datasets.from_frame(store, LOCAL, "grid", pd.DataFrame(rows, columns=["cell", "story"]), ["cell"], "story")


def edit(store: Store, dataset_id: str, position: int, **values: object) -> None:
    with store.session() as session:
        row = session.query(Row).filter_by(dataset_id=dataset_id, position=position).one()
        for name, value in values.items():
            setattr(row, name, value)


def test_a_version_keeps_its_examples_when_rows_change(store: Store) -> None:
    dataset_id = grid(store)
    version = versions.get(store, versions.freeze(store, LOCAL, dataset_id, validation_share=0.2, note=" first "))
    assert (version.number, version.note, version.n_train, version.n_validation) == (1, "first", 24, 6)
    learned = list(versions.examples(store, version.id))
    edit(store, dataset_id, 0, text="another")
    edit(store, dataset_id, 7, state="excluded")
    assert list(versions.examples(store, version.id)) == learned
    validation = list(versions.examples(store, version.id, "validation"))
    assert sorted(prompt for prompt, _ in validation) == [f"c{c}" for c in range(6)]  # one of every cell
    assert not set(validation) & set(learned) and len(learned) + len(validation) == 30


def test_the_same_rows_and_split_are_the_same_version(store: Store) -> None:
    dataset_id = grid(store)
    first = versions.freeze(store, LOCAL, dataset_id, validation_share=0.2, seed=1)
    assert versions.freeze(store, LOCAL, dataset_id, validation_share=0.2, seed=1, note="again") == first
    second = versions.freeze(store, LOCAL, dataset_id, validation_share=0.2, seed=2)
    edit(store, dataset_id, 0, text="another")
    third = versions.freeze(store, LOCAL, dataset_id, validation_share=0.2, seed=1)
    edit(store, dataset_id, 0, text="story 0-0")
    assert versions.freeze(store, LOCAL, dataset_id, validation_share=0.2, seed=1) == first
    assert [v.id for v in versions.list_versions(store, dataset_id)] == [third, second, first]
    assert [v.number for v in versions.list_versions(store, dataset_id)] == [3, 2, 1]


def test_two_clicks_at_once_make_one_version(store: Store) -> None:
    dataset_id, made = grid(store), list[str]()
    threads = [
        threading.Thread(target=lambda: made.append(versions.freeze(store, LOCAL, dataset_id, validation_share=0.1)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len(set(made)) == 1


def test_a_split_from_a_file_is_kept(store: Store) -> None:
    words = ["held_out", "test", "val", "train", "", ""]
    table = pd.DataFrame({"a": list("abcdef"), "text": list("123456"), "part": words})
    dataset_id = datasets.from_frame(store, LOCAL, "x", table, ["a"], "text", split_column="part")
    version = versions.get(store, versions.freeze(store, LOCAL, dataset_id, validation_share=0.5))
    assert (version.n_train, version.n_validation, version.n_held_out) == (2, 2, 2)
    assert sorted(p for p, _ in versions.examples(store, version.id, "held_out")) == ["a", "b"]
    assert ("c", "3") in list(versions.examples(store, version.id, "validation"))
    assert ("d", "4") in list(versions.examples(store, version.id))


def test_copies_are_on_one_side_of_the_split_and_follow_a_row_that_has_a_part(store: Store) -> None:
    story = "Once upon a time there was somebody who had a story that was told to many people, again and again. "
    rows = [(f"c{i % 4}", f"{story}{i // 2}", "") for i in range(40)]  # each text twice, in two cells
    rows += [("c0", f"{story}held", "test"), ("c1", f" {story}held\n", ""), ("c2", f"{story}val", "val")]
    rows += [("c3", f"{story}val", ""), ("c0", f"{story}taught", "train"), ("c1", f"{story}taught", "")]
    table = pd.DataFrame(rows, columns=["cell", "story", "part"])
    dataset_id = datasets.from_frame(store, LOCAL, "x", table, ["cell"], "story", split_column="part")
    version = versions.get(store, versions.freeze(store, LOCAL, dataset_id, validation_share=0.3))
    texts = {
        part: {text.strip() for _, text in versions.examples(store, version.id, part)}
        for part in ("train", "validation", "held_out")
    }
    assert not texts["train"] & texts["validation"] and texts["held_out"] == {f"{story}held"}
    assert f"{story}val" in texts["validation"] and f"{story}taught" in texts["train"]
    assert (version.n_validation, version.n_held_out) == (12 + 2, 2)  # three tenths of 40, and those that follow


def test_equal_labels_of_different_messages_are_no_copies(store: Store) -> None:
    rows = [(f"message {i % 30}", "refund" if i % 2 else "delivery") for i in range(40)]  # ten messages come twice
    table = pd.DataFrame(rows, columns=["message", "intent"])
    dataset_id = datasets.from_frame(store, LOCAL, "x", table, ["message"], "intent")
    version = versions.get(store, versions.freeze(store, LOCAL, dataset_id, validation_share=0.25))
    taught, kept = (set(versions.examples(store, version.id, part)) for part in ("train", "validation"))
    assert version.n_validation == 10 and not taught & kept
    assert {label for _, label in kept} == {"refund", "delivery"}


@pytest.mark.parametrize("states", [["failed"] * 30, ["done"] * 30])
def test_freezing_without_training_rows_is_refused(store: Store, states: list[str]) -> None:
    dataset_id = grid(store)
    for position, state in enumerate(states):
        edit(store, dataset_id, position, state=state, split="held_out")
    with pytest.raises(BadTrainingFile, match="No rows would be left") as caught:
        versions.freeze(store, LOCAL, dataset_id)
    assert caught.value.next_step and versions.list_versions(store, dataset_id) == []


def test_unknown_splits_are_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        versions.freeze(store, LOCAL, "gone")
    with pytest.raises(NotFound):
        versions.get(store, "gone")
    with pytest.raises(FabulaError, match="share"):
        versions.freeze(store, LOCAL, grid(store), validation_share=2)
    assert list(versions.examples(store, "gone")) == []


def test_many_rows_are_kept_in_chunks(store: Store) -> None:
    dataset_id = grid(store, cells=50, repeats=50)
    version = versions.get(store, versions.freeze(store, LOCAL, dataset_id, validation_share=0.1))
    assert (version.n_train, version.n_validation) == (2_250, 250)
    assert len(list(versions.examples(store, version.id))) == 2_250
