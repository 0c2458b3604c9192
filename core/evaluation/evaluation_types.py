"""Data types of evaluations: the form, held-out rows, metrics and views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from core.evaluation.scoring import Interval, LabelScore
from core.message import from_json, to_json

Kind = Literal["label", "text"]
Part = Literal["both", "held_out", "validation"]
ACTIVE = ("queued", "running", "stopping")


@dataclass(frozen=True, slots=True)
class EvaluationForm:
    """What to evaluate, and how.

    Attributes:
        dataset_id, version_id: source of the rows; version_id None: the rows that the data set itself holds out.
        provider, model: the model to evaluate; job_id: the job that made it, None for a base model.
        part: held-out rows, validation rows, or both.
        kind: `label` (a few short answers) or `text`; None: detected from the rows.
        limit: maximum number of rows; a random sample, the same for every model.
        max_tokens: per answer; None: chosen from the expected texts.
        separator, stop, file_format: as in the training file, so that prompts have the same form.
        system: system prompt; None: the one in the data set's chat files, none for other formats.
    """

    dataset_id: str
    provider: str
    model: str
    job_id: str | None = None
    version_id: str | None = None
    part: Part = "both"
    kind: Kind | None = None
    limit: int = 200
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    separator: str | None = None
    stop: str | None = None
    file_format: str = "completion"
    system: str | None = None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Number and kind of the rows that training does not use. `labels`: all labels of the data set, if any."""

    validation: int
    held_out: int
    kind: Kind
    labels: tuple[str, ...]

    @property
    def usable(self) -> int:
        """The number of rows that can be used for an evaluation."""
        return self.validation + self.held_out


@dataclass(frozen=True, slots=True)
class HeldOutExample:
    """One row that training has not used."""

    key: str
    values: Mapping[str, str]
    prompt: str
    expected: str


@dataclass(frozen=True, slots=True)
class Metrics:
    """The results of an evaluation. Shares are 0 to 1.

    Attributes:
        n: rows that were answered.
        accuracy: share of correct labels; None for texts.
        exact: share of answers that match the expected text, ignoring white space.
        loss: nats per token on rows kept from training; None: `loss_note` gives the reason.
        labels, confusion: for labels; answers that are not a label are counted under "".
        overlap: similarity to the expected texts (chrF); None for labels.
        quality: for texts, measures of the data set report where known: `characters`, `distinct_2`, `grave` (share of
            rows with a problem), `adherence` (share of requested column values that appear in the texts).
        cost_usd: the provider's charge; None: the price is unknown. 0 on the engine, see `writing_s`.
        writing_s: seconds with requests in flight; None: not recorded.
    """

    n: int
    accuracy: Interval | None
    exact: Interval | None
    loss: float | None
    loss_note: str
    labels: tuple[LabelScore, ...]
    confusion: Mapping[str, Mapping[str, int]]
    overlap: Interval | None
    quality: Mapping[str, float]
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    writing_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        cost = None if self.cost_usd is None else str(self.cost_usd)
        return {**asdict(self), "cost_usd": cost, "loss_note": to_json(self.loss_note)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metrics:
        """The inverse of `to_dict`."""
        values = dict(data)
        for name in ("accuracy", "exact", "overlap"):
            values[name] = None if values[name] is None else Interval(**values[name])
        values["labels"] = tuple(LabelScore(**label) for label in values["labels"])
        values["loss_note"] = from_json(values["loss_note"]) or ""
        values["cost_usd"] = None if values["cost_usd"] is None else Decimal(values["cost_usd"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """One evaluation. `answered`, `failed` and `right` count rows; `reason`: why it failed or waits."""

    id: str
    job_id: str | None
    dataset_id: str
    version_id: str | None
    provider: str
    model: str
    kind: str
    settings: Mapping[str, Any]
    state: str
    reason: str | None
    total: int
    answered: int
    failed: int
    right: int
    metrics: Metrics | None
    created_at: datetime
    finished_at: datetime | None
    created_by: str

    @property
    def active(self) -> bool:
        """Whether the worker still has something to do for it."""
        return self.state in ACTIVE


@dataclass(frozen=True, slots=True)
class AnswerView:
    """A model's answer to one row. `right`: None for texts, and if there is no answer (see `reason`)."""

    id: int
    prompt: str
    expected: str
    text: str | None
    right: bool | None
    reason: str | None
