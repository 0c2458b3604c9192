"""Token counts of the rows that a job would train on: in total, per call, and of the longest rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from core.datasets import export
from core.datasets.export import CountedPlan
from core.db.store import Store
from core.engine.job_rules import TrainingMethod
from core.finetuning import preference_training
from core.finetuning.job_form import FileFormat
from core.pricing import tokens

T = TypeVar("T")
_CHUNK = 1_000  # rows counted at once


@dataclass(frozen=True, slots=True, eq=False)
class RowLengths:
    """The training rows of a data set in tokens of one vocabulary.

    Attributes:
        tokens: of all rows; a job trains on them once per epoch.
        prompt_tokens, completion_tokens: means of a row, as in a call of the tuned model.
        of_rows: tokens of each row.
        exact: whether the model's own vocabulary counted them.
    """

    tokens: int
    prompt_tokens: int
    completion_tokens: int
    of_rows: NDArray[np.float64]
    exact: bool

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.of_rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 if there is none."""
        return round(float(self.of_rows.max(initial=0)))

    def longer_than(self, limit: int) -> int:
        """How many rows have more tokens than a model reads."""
        return int((self.of_rows > limit).sum())


def measure(
    store: Store,
    dataset_id: str,
    version_id: str | None,
    file_format: FileFormat,
    model: str,
    ask: Callable[[str], int] | None = None,
    method: TrainingMethod = "supervised",
) -> RowLengths:
    """Count the training rows as `export.count_tokens` does, which the estimate of a new job uses.

    Args:
        method: with `dpo`, each row counts with both of its answers.
        ask: counts with the model's own tokenizer; see `export.count_tokens`. All figures are scaled to its total.

    Raises:
        BadTrainingFile: no row can be used.
        NotFound: the data set or version does not exist.
    """
    selection = export.Selection(store, dataset_id, version_id)
    if method == "dpo":
        pairs_plan = preference_training.plan(selection, file_format, None, None)
        return _measured(pairs_plan, selection.preferences(), model, ask, texts_per_row=2)
    return _measured(export.plan(selection, file_format), selection.examples(), model, ask, texts_per_row=1)


def _measured(
    plan: CountedPlan[T], rows: Iterable[T], model: str, ask: Callable[[str], int] | None, *, texts_per_row: int
) -> RowLengths:
    overhead = export.overhead_tokens(plan, model)
    of_rows, prompt_total = list[int](), 0
    read = plan.pairs(rows)
    while pairs := tuple(islice(read, _CHUNK)):
        of_rows += tokens.lengths(["".join(pair) for pair in pairs], model)
        prompt_total += tokens.count([prompt for prompt, _completion in pairs], model).tokens
    n, exact, factor = len(of_rows), tokens.encoding_of(model) is not None, 1.0
    total = sum(of_rows) + n * overhead
    if ask is not None and total:
        asked = export.count_tokens(plan, rows, model, ask)
        total, exact, factor = asked.tokens, asked.exact, asked.tokens / total
    completion_total = sum(of_rows) - prompt_total
    return RowLengths(
        tokens=total,
        prompt_tokens=round(factor * (prompt_total / max(1, n) + overhead)),
        completion_tokens=round(factor * completion_total / max(1, n)),
        of_rows=factor * (np.array(of_rows, dtype=np.float64) + overhead).reshape(-1, texts_per_row).max(axis=1),
        exact=exact,
    )
