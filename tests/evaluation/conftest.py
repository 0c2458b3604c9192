"""What evaluations need: a version with held-out rows, and a form for it."""

from __future__ import annotations

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db.store import Store
from core.evaluation.evaluations import EvaluationForm
from tests.support.fakes import LABELS, TUNED


@pytest.fixture
def intents(store: Store) -> str:
    """A version with 120 short rows, three labels, and a fifth for validation."""
    rows = [{"question": f"question {n} about {LABELS[n % 3]}", "intent": LABELS[n % 3]} for n in range(120)]
    dataset_id = datasets.from_frame(store, LOCAL, "intents", pd.DataFrame(rows), ["question"], "intent")
    return versions.freeze(store, LOCAL, dataset_id, validation_share=0.2)


@pytest.fixture
def form(store: Store, intents: str) -> EvaluationForm:
    return EvaluationForm(
        versions.get(store, intents).dataset_id, "engine", TUNED, version_id=intents, separator=" ->", stop="."
    )
