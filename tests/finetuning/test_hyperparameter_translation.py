"""Hyperparameters of an OpenAI job for other trainers: what is kept, what is left to them, and what is named."""

from __future__ import annotations

from typing import Any

import pytest

from core.finetuning.hyperparameter_translation import AUTO, OldJob, translate
from core.providers.capabilities import Training
from core.providers.schemas import TrainingDefaults

_DEFAULTS = TrainingDefaults(16, 32.0, 1e-3)


@pytest.mark.parametrize(
    ("old", "trainer", "expected"),
    [
        ({"n_epochs": 3}, "engine", {"n_epochs": 3}),
        ({"n_epochs": 120}, "engine", {"n_epochs": 50}),
        ({"n_epochs": AUTO, "batch_size": AUTO, "learning_rate_multiplier": AUTO}, "engine", {}),
        ({"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 1.8}, "engine", {"n_epochs": 2, "batch_size": 8}),
        ({"batch_size": 256}, "engine", {"batch_size": 32}),
        ({"n_epochs": 2, "batch_size": 256}, "together", {"n_epochs": 2}),
        ({}, "together", {"n_epochs": 3}),
        ({"n_epochs": AUTO}, "azure", {}),
        (
            {"n_epochs": 4, "batch_size": 64, "learning_rate_multiplier": 0.2},
            "azure",
            {"n_epochs": 4, "batch_size": 64, "learning_rate_multiplier": 0.2},
        ),
        ({"n_epochs": "many", "batch_size": None, "learning_rate_multiplier": -1}, "azure", {}),
        ({"n_epochs": 3, "learning_rate_multiplier": 2.0}, "openai", {"n_epochs": 3}),
    ],
)
def test_values_of_another_trainer(old: dict[str, Any], trainer: str, expected: dict[str, Any]) -> None:
    engine = trainer == "engine"
    api: Training = trainer if trainer in ("azure", "together") else "openai"  # type: ignore[assignment]  # one of these
    found = translate(OldJob(hyperparameters=old), api, engine=engine, defaults=_DEFAULTS if engine else None, rows=40)
    assert found.values == expected
    assert all(one.reason and one.source for one in found.settings)
    names = [one.name for one in found.settings]
    assert names[:3] == ["n_epochs", "batch_size", "learning_rate_multiplier"]
    assert names[3:] == (["lora_rank", "lora_alpha"] if engine else [])


def test_what_the_engine_chooses_is_shown() -> None:
    found = translate(OldJob(), "openai", engine=True, defaults=_DEFAULTS, rows=12)
    assert {one.name: one.automatic for one in found.settings} == {
        "n_epochs": "8",  # few rows
        "batch_size": "1",
        "learning_rate_multiplier": "1.0 = 1.0e-03",
        "lora_rank": "16",
        "lora_alpha": "32",
    }


@pytest.mark.parametrize(
    ("old", "trainer", "suffix", "said"),
    [
        (OldJob(suffix="intents"), "azure", "intents", []),
        (OldJob(suffix="intents-of-our-customers"), "azure", None, ["suffix"]),
        (OldJob(suffix="intents-of-our-customers"), "together", "intents-of-our-customers", []),
        (OldJob(suffix="é"), "openai", None, ["suffix"]),
        (OldJob(seed=7), "azure", None, ["seed 7"]),
        (OldJob(method="dpo", hyperparameters={"beta": 0.1}), "azure", None, ["DPO", "beta = 0.1"]),
        (OldJob(method="dpo"), "engine", None, ["no rejected answers"]),
        (OldJob(method="reinforcement"), "engine", None, ["“reinforcement”"]),
    ],
)
def test_what_is_not_repeated_is_said(old: OldJob, trainer: str, suffix: str | None, said: list[str]) -> None:
    engine = trainer == "engine"
    api: Training = "openai" if engine else trainer  # type: ignore[assignment]  # one of the parameters above
    found = translate(old, api, engine=engine, defaults=None, rows=40)
    assert found.suffix == suffix
    assert len(found.left_out) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found.left_out, strict=True))


@pytest.mark.parametrize(("beta", "value", "automatic"), [(0.3, 0.3, ""), (AUTO, None, "0.1"), (9, None, "0.1")])
def test_preference_training_is_repeated_on_the_engine(beta: object, value: float | None, automatic: str) -> None:
    old = OldJob("dpo", {"beta": beta, "n_epochs": 2})
    found = translate(old, "openai", engine=True, defaults=None, rows=40, has_preferences=True)
    assert (found.method, found.left_out) == ("dpo", ())
    assert (found.settings[-1].name, found.settings[-1].value, found.settings[-1].automatic) == (
        "beta",
        value,
        automatic,
    )
    elsewhere = translate(old, "together", engine=False, defaults=None, rows=40, has_preferences=True)
    assert elsewhere.method == "supervised" and "The engine can repeat DPO" in elsewhere.left_out[0]
