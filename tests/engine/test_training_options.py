"""The hyperparameters that OpenAI's API does not have: defaults by model size, and what is refused."""

from __future__ import annotations

import pytest

from core import packaged_models
from core.engine.number_checks import InvalidValue
from core.engine.training_options import DEFAULTS, TrainingOptions, base_learning_rate, lora_rank, read


@pytest.mark.parametrize(
    ("parameters", "rank"),
    [(0, 16), (packaged_models.PARAMETERS, 16), (2_999_999_999, 16), (3_000_000_000, 8), (8_000_000_000, 8)],
)
def test_the_default_rank_follows_from_the_size_of_the_model(parameters: int, rank: int) -> None:
    assert lora_rank(parameters) == rank


@pytest.mark.parametrize(("width", "rate"), [(0, 1e-3), (640, 1e-3), (2048, 4.03e-4)])
def test_the_learning_rate_falls_with_the_width(width: int, rate: float) -> None:
    assert base_learning_rate(width) == pytest.approx(rate, rel=0.01)


def test_the_packaged_base_has_the_values_that_were_measured() -> None:
    """Its figures in docs/benchmarks.md hold for these values only."""
    assert (lora_rank(packaged_models.PARAMETERS), DEFAULTS.lora_alpha) == (16, 32.0)
    assert base_learning_rate(packaged_models.WIDTH) == pytest.approx(1e-3)
    assert (DEFAULTS.warmup, DEFAULTS.schedule, DEFAULTS.early_stopping) == (0.0, "linear", None)


def test_the_options_that_are_named_are_read_and_the_others_have_their_defaults() -> None:
    assert read({}, has_validation=False) == DEFAULTS
    assert read({"lora_rank": None, "n_epochs": 3}, has_validation=False) == DEFAULTS
    given = {"lora_rank": 4, "lora_alpha": 8, "warmup": 0.1, "schedule": "cosine", "early_stopping": 2}
    assert read(given, has_validation=True) == TrainingOptions(4, 8.0, 0.1, "cosine", 2)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("lora_rank", 0, "'lora_rank' must be a whole number from 1 to 256; it is 0."),
        ("lora_rank", True, "it is true."),
        ("lora_rank", "8", 'it is "8".'),
        ("lora_alpha", 2000, "'lora_alpha' must be a number from 1 to 1024; it is 2000."),
        ("warmup", float("inf"), "it is Infinity."),
        ("schedule", "steps", "'schedule' must be one of linear, cosine, constant."),
        ("early_stopping", 21, "'early_stopping' must be a whole number from 1 to 20; it is 21."),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object, says: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read({name: value}, has_validation=True)
    assert caught.value.name == name and says in caught.value.message


def test_early_stopping_needs_validation_examples() -> None:
    with pytest.raises(InvalidValue) as caught:
        read({"early_stopping": 2}, has_validation=False)
    assert caught.value.name == "early_stopping"
