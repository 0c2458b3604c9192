"""The job form and the engine accept and reject the same values."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engine import job_rules, training_options
from core.engine.api import job_request
from core.engine.api.errors import ApiError
from core.errors import FabulaError
from core.finetuning.examples import suggest_hyperparameters
from core.finetuning.job_form import JobForm, smaller_batch

HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier", *training_options.NAMES)
FORM = JobForm("d", "First", "engine", "gemma-3-270m")


def form_accepts(**given: Any) -> bool:
    try:
        replace(FORM, **given).validate()
    except FabulaError:
        return False
    return True


def engine_accepts(**given: Any) -> bool:
    """`given` in the format that `core.providers.finetuning` sends."""
    numbers = {name: value for name, value in given.items() if name in HYPERPARAMETERS and value is not None}
    other_values = {name: value for name, value in given.items() if name not in HYPERPARAMETERS}
    method = {"type": "supervised", "supervised": {"hyperparameters": numbers}}
    try:
        job_request.parse({"model": "m", "training_file": "file-1", "method": method, **other_values})
    except ApiError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("suffix", None, True),
        ("suffix", "first-try", True),
        ("suffix", "v1.2_b", True),
        ("suffix", "7", True),
        ("suffix", "-", True),
        ("suffix", "a" * 64, True),
        ("suffix", "a" * 65, False),
        ("suffix", "first try!", False),
        ("suffix", " first", False),
        ("suffix", "first\n", False),
        ("suffix", "a:b", False),
        ("suffix", "a/b", False),
        ("suffix", "奥特曼", False),
        ("suffix", "übung", False),
        ("suffix", "ａ", False),
        ("suffix", "١", False),
        ("n_epochs", None, True),
        ("n_epochs", 1, True),
        ("n_epochs", 50, True),
        ("n_epochs", 0, False),
        ("n_epochs", 51, False),
        ("batch_size", 1, True),
        ("batch_size", 256, True),
        ("batch_size", 0, False),
        ("batch_size", 257, False),
        ("learning_rate_multiplier", 0.0001, True),
        ("learning_rate_multiplier", 100.0, True),
        ("learning_rate_multiplier", 0.00009, False),
        ("learning_rate_multiplier", 0.0, False),
        ("learning_rate_multiplier", -1.0, False),
        ("learning_rate_multiplier", 100.1, False),
        ("learning_rate_multiplier", float("nan"), False),
        ("learning_rate_multiplier", float("inf"), False),
        ("lora_rank", 1, True),
        ("lora_rank", 256, True),
        ("lora_rank", 0, False),
        ("lora_rank", 257, False),
        ("lora_rank", 4.5, False),
        ("lora_alpha", 1, True),
        ("lora_alpha", 1024.0, True),
        ("lora_alpha", 0.5, False),
        ("lora_alpha", float("nan"), False),
        ("warmup", 0.0, True),
        ("warmup", 0.5, True),
        ("warmup", 0.51, False),
        ("schedule", "cosine", True),
        ("schedule", "steps", False),
        ("early_stopping", 2, False),  # without validation examples
        ("seed", 0, True),
        ("seed", 2**31 - 1, True),
        ("seed", -1, False),
        ("seed", 2**31, False),
    ],
)
def test_form_and_engine_take_the_same_values(name: str, value: object, accepted: bool) -> None:
    assert form_accepts(**{name: value}) is accepted
    assert engine_accepts(**{name: value}) is accepted


@given(st.text(min_size=1, max_size=70))
def test_form_and_engine_take_the_same_suffixes(suffix: str) -> None:
    assert form_accepts(suffix=suffix) == engine_accepts(suffix=suffix)


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("n_epochs", job_rules.N_EPOCHS),
        ("batch_size", job_rules.BATCH_SIZE),
        ("learning_rate_multiplier", job_rules.LEARNING_RATE_MULTIPLIER),
        ("seed", job_rules.SEED),
    ],
)
def test_a_refusal_names_the_bounds(name: str, bounds: tuple[float, float]) -> None:
    with pytest.raises(FabulaError) as caught:
        replace(FORM, **{name: bounds[1] + 1}).validate()  # type: ignore[arg-type]  # each bound has its field's type
    for bound in bounds:
        assert f"{bound:,}".removesuffix(".0") in caught.value.what


@pytest.mark.parametrize(
    ("examples", "n_epochs", "batch_size"),
    [
        (None, 3, 4), (0, 8, 1), (1, 8, 1), (15, 8, 1), (16, 8, 4), (25, 6, 4), (49, 4, 4), (50, 3, 4), (464, 3, 4),
        (100_000, 3, 4),
    ],
)  # fmt: skip
def test_automatic_values_depend_on_the_number_of_examples(
    examples: int | None, n_epochs: int, batch_size: int
) -> None:
    assert job_rules.automatic(examples) == (n_epochs, batch_size)


@pytest.mark.parametrize(
    ("pairs", "n_epochs", "batch_size"), [(5, 8, 1), (11, 8, 1), (12, 8, 4), (16, 7, 4), (34, 3, 4), (50, 3, 4)]
)
def test_a_few_pairs_need_fewer_uses_than_a_data_set_of_texts(pairs: int, n_epochs: int, batch_size: int) -> None:
    chosen = suggest_hyperparameters(pairs)
    assert (chosen.n_epochs, chosen.batch_size) == (n_epochs, batch_size)


@pytest.mark.parametrize(
    ("batch_size", "n_examples", "smaller"),
    [(8, 100, 4), (1, 100, None), (None, 100, 2), (None, 15, None), (None, None, 2)],
)
def test_after_running_out_of_memory_half_the_batch_is_proposed(
    batch_size: int | None, n_examples: int | None, smaller: int | None
) -> None:
    hyperparameters = {} if batch_size is None else {"batch_size": batch_size}
    job = SimpleNamespace(hyperparameters=hyperparameters, n_examples=n_examples)
    assert smaller_batch(job) == smaller  # type: ignore[arg-type]  # only these two fields are read
