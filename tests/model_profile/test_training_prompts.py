"""Training history of a tuned model: its data set, its prompts, and those of its ancestors."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets, presets, versions
from core.db.store import Store
from core.db.tables import TrainingJob
from core.finetuning import job_views
from core.model_profile import model_purpose
from core.model_profile.model_purpose import TrainingFacts, TrainingHistory
from core.model_profile.prompt_similarity import compare


def _dataset(store: Store, name: str, prompts: list[str]) -> str:
    frame = pd.DataFrame({"prompt": prompts, "answer": [f"answer {number}" for number in range(len(prompts))]})
    return datasets.from_frame(store, LOCAL, name, frame, ["prompt"], "answer")


def _train(store: Store, number: int, dataset_id: str | None, **values: object) -> TrainingHistory:
    given: dict[str, object] = {
        "base_model": "gemma-3-270m",
        "provider": "engine",
        "file_format": "completion",
        "separator": " ->",
        "stop": ".",
    }
    model = f"ft:gemma-3-270m:fabula:x:{number}"
    with store.session() as session:
        session.add(
            TrainingJob(
                id=f"j{number}", dataset_id=dataset_id, name="x", hyperparameters={},
                fine_tuned_model=model, status="succeeded", created_by="local", **given | values,
            )
        )  # fmt: skip
    return model_purpose.training_history(store, job_views.get(store, f"j{number}"))


def test_the_facts_are_the_name_of_the_data_set_its_rows_and_the_first_base(store: Store) -> None:
    made = _train(store, 1, _dataset(store, "Support", ["Where is my parcel?", "Cancel my order"]), n_examples=2)
    assert made.facts == TrainingFacts("Support", 2, "gemma-3-270m")
    assert (made.prompt, made.system) == ("Where is my parcel?", "")


def test_rows_that_were_kept_from_training_were_not_learned(store: Store) -> None:
    dataset_id = _dataset(store, "Support", [f"message number{letter}" for letter in "abcdefghij"])
    version = versions.freeze(store, LOCAL, dataset_id, validation_share=0.3)
    made = _train(store, 1, dataset_id, version_id=version)
    kept = [prompt for prompt, _text in versions.examples(store, version, "validation")]
    assert made.vocabulary is not None and kept
    assert not {prompt.split()[1] for prompt in kept} & made.vocabulary.words


def test_prompts_of_the_whole_chain_count(store: Store) -> None:
    _train(store, 1, _dataset(store, "First", ["Describe the kettle", "Describe the lamp"]))
    second = _dataset(store, "Second", ["Praise the chair", "Praise the table"])
    made = _train(store, 2, second, base_model="ft:gemma-3-270m:fabula:x:1", parent_id="j1")
    assert made.vocabulary is not None and {"describe", "kettle", "praise", "chair"} <= made.vocabulary.words
    assert made.facts == TrainingFacts("Second", None, "gemma-3-270m") and made.prompt == "Praise the chair"


def test_a_model_made_from_the_storyteller_still_knows_its_instruction(store: Store) -> None:
    made = _train(store, 1, _dataset(store, "Cats", ["小猫在屋顶", "小猫在花园"]), base_model="storyteller")
    assert made.facts.root == "storyteller" and made.vocabulary is not None
    assert not compare(presets.get("ultraman").recipe.template, made.vocabulary).far


def test_the_system_text_of_conversations_is_among_what_was_learned(store: Store) -> None:
    dataset_id = _dataset(store, "Support", ["Where is it?", "Cancel it"])
    datasets.set_system_message(store, LOCAL, dataset_id, "Answer with refund or billing.")
    chat = _train(store, 1, dataset_id, file_format="chat", separator=None, stop=None)
    plain = _train(store, 2, dataset_id)
    assert chat.system == "Answer with refund or billing." and plain.system == ""
    assert chat.vocabulary is not None and "refund" in chat.vocabulary.words
    assert plain.vocabulary is not None and "refund" not in plain.vocabulary.words


def test_without_its_data_set_nothing_is_known(store: Store) -> None:
    made = _train(store, 1, None, n_examples=12)
    assert made == TrainingHistory(TrainingFacts(None, 12, "gemma-3-270m"), None, "", "")


def test_a_data_set_that_was_deleted_meanwhile_is_unknown(store: Store) -> None:
    dataset_id = _dataset(store, "Gone", ["one", "two"])
    _train(store, 1, dataset_id)
    job = job_views.get(store, "j1")
    gone = replace(job, dataset_id="gone")
    assert model_purpose.training_history(store, gone) == TrainingHistory(
        TrainingFacts(None, None, "gemma-3-270m"), None, "", ""
    )


@pytest.mark.parametrize(("language", "names"), [("zh_CN", {"ultraman", "ultraman_more"}), ("en", {"english_stories"})])
def test_a_packaged_writer_learned_the_presets_of_its_language(language: str, names: set[str]) -> None:
    assert {preset.id for preset in model_purpose.presets_of(language)} == names
    known = model_purpose.writer_vocabulary(language)
    assert known is not None and known.from_template and known.typical_overlap == 1
