"""From votes on the story page to a job that learns from them, and the page of such a job."""

from __future__ import annotations

import pytest

from core.actor import LOCAL
from core.db.store import Store
from core.evaluation import preference_data
from core.finetuning import job_views
from core.stories import arena, vote_pairs
from pages.ui import cache
from tests.support.app_pages import click, next_step, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_job, put_story
from tests.support.waiting import until

_CURVE = (
    "step,elapsed_tokens,elapsed_examples,training_loss,training_reward_accuracy,training_reward_margin\n"
    "1,100,4,0.69,0.5,0.0\n2,200,8,0.6,0.75,-0.25\n"
)


@pytest.fixture(autouse=True)
def votes(store: Store, engine_server: FaultServer) -> None:
    """Three votes on answers of the model `writer`, and one for none of them."""
    for number in range(4):
        ids = [
            put_story(store, 10 * number + place, round_id=f"r{number}", text=text, requested_model=model)
            for place, (text, model) in enumerate((("good", "writer"), ("bad", "other")))
        ]
        arena.cast_vote(store, LOCAL, f"r{number}", ids, ids[0] if number else None, blind=True)
    cache.refresh()


def test_votes_become_a_job_that_learns_which_answer_is_preferred(store: Store) -> None:
    text = words(visit("story", story_part="votes"))
    assert "3 pairs for preference training" in text and "Not used: 1 vote for none of the stories." in text
    made = preference_data.save(store, LOCAL, "votes", vote_pairs.from_votes(store, None).pairs)
    chosen = {"training_dataset": made.dataset_id, f"training_version_{made.dataset_id}": made.version_id}
    at = visit("training", training_part="new", **chosen)
    until(lambda: "3 pairs of answers to learn from" in words(at) or not at.run(), "the pairs")
    text = words(at)
    assert "which of two answers people prefer" in text
    assert '"non_preferred_output"' in text or '"rejected"' in text
    assert "very few pairs of answers (3)" in text and "will mostly repeat" not in text
    at = next_step(at)
    assert "lower rate stays closer" in words(at) and "use a higher rate" not in words(at)
    assert at.toggle(key="training_beta_auto").label == "Beta: automatic (0.1)"
    at.toggle(key="training_beta_auto").set_value(False).run()
    at.text_input(key="training_beta").set_value("0.25").run()
    at = next_step(at)
    assert "learns from votes (DPO)" in words(at) and "beta: 0.25" in words(at)
    click(at, "training_submit")
    (job,) = job_views.list_jobs(store)
    assert (job.method, job.base_model, job.hyperparameters) == ("dpo", "writer", {"beta": 0.25})


def test_the_page_of_such_a_job_shows_rewards_under_trl_s_names(store: Store) -> None:
    job_id = put_job(
        store, status="succeeded", method="dpo", results_csv=_CURVE, fine_tuned_model="ft:writer:x", file_format="chat"
    )
    cache.refresh()
    at = visit("training", training_open=(job_id,))
    assert [one.label for one in at.metric if one.label.startswith("rewards/")] == [
        "rewards/accuracies, last step", "rewards/margins, last step",
    ]  # fmt: skip
    assert at.button(key="training_compare")
    at = click(at, "training_compare")
    assert at.session_state["story_compare"] and at.session_state["story_others"] == ["engine/writer"]
