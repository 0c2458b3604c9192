"""Parity cards from stored evaluations: figures, the schema, and comparisons after the old model is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import Dataset
from core.errors import ModelNotFound
from core.evaluation import evaluations
from core.evaluation.evaluations import EvaluationForm
from core.parity import from_evaluations
from core.pricing import custom_prices
from tests.support.fakes import BASE
from tests.support.scripted_evaluation import ScriptedModel, go, right


def _pair(store: Store, form: EvaluationForm) -> tuple[str, str]:
    """Finished evaluations of an old model that is right, and a new one that always answers `refund`."""
    old, new = evaluations.start(store, LOCAL, form), evaluations.start(store, LOCAL, replace(form, model=BASE))
    go(store, old, ScriptedModel(right))
    go(store, new, ScriptedModel(lambda r: "refund"))
    return old, new


def test_a_card_has_time_tokens_and_cost_of_both_models(store: Store, form: EvaluationForm) -> None:
    old, new = _pair(store, form)
    card = from_evaluations.compare_evaluations(store, old, new)
    for side in (card.old, card.new):
        assert side.seconds is not None and side.seconds_p95 is not None and 0 <= side.seconds <= side.seconds_p95
        assert (side.usage.prompt_tokens, side.usage.completion_tokens) == (5, 2)
        assert (side.usage.usd_per_1000, side.usage.machine_time) == (None, True)  # no price per hour is set
    custom_prices.set_machine_hour(store, LOCAL, "1", "USD")
    priced = from_evaluations.compare_evaluations(store, old, new).old.usage.usd_per_1000
    assert priced is not None and priced > 0


def test_the_old_models_stored_answers_are_compared_with_a_third_model_after_its_end(
    store: Store, form: EvaluationForm
) -> None:
    old, new = _pair(store, form)
    dark = ScriptedModel(lambda r: ModelNotFound("The model does not exist.", "Choose another one."))
    again = evaluations.start(store, LOCAL, form)
    go(store, again, dark)
    assert evaluations.get(store, again).state == "failed" and len(dark.asked) >= 1
    asked = len(dark.asked)
    third = evaluations.start(store, LOCAL, replace(form, model="third"))
    go(store, third, ScriptedModel(right))
    cards = [from_evaluations.compare_evaluations(store, old, one) for one in (new, third)]
    assert [(card.old.answered, card.worse_rows) for card in cards] == [(24, 16), (24, 0)]
    assert len(dark.asked) == asked


def test_the_schema_of_a_card(store: Store, form: EvaluationForm) -> None:
    old, new = _pair(store, form)
    assert from_evaluations.compare_evaluations(store, old, new).new.schema is None
    from_evaluations.set_schema(store, LOCAL, new, '{"enum": ["refund"]}')
    card = from_evaluations.compare_evaluations(store, old, new)
    assert card.new.schema is not None and card.new.schema.errors[0].n == 24  # labels are not JSON
    from_evaluations.set_schema(store, LOCAL, new, " ")
    assert from_evaluations.compare_evaluations(store, old, new).new.schema is None


@pytest.mark.parametrize(
    ("response_format", "found"),
    [
        ('{"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}', {"type": "object"}),
        ('{"type": "json_object"}', None),
        ('{"type": "json_schema", "json_schema": {"schema": {"$ref": "https://x"}}}', None),
        ("", None),
    ],
)
def test_the_schema_with_which_a_data_set_was_written_is_used(
    store: Store, form: EvaluationForm, response_format: str, found: object
) -> None:
    evaluation = evaluations.get(store, evaluations.start(store, LOCAL, form))
    with store.session() as session:
        session.get_one(Dataset, form.dataset_id).recipe = {"response_format": response_format}
    assert from_evaluations.schema_of(store, evaluation) == found
