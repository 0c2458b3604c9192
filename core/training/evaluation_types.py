"""What an evaluation is asked for, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from core.message import from_json, to_json
from core.training.scoring import Interval, LabelScore

Kind = Literal["label", "text"]
Part = Literal["both", "held_out", "validation"]
ACTIVE = ("queued", "running", "stopping")


@dataclass(frozen=True, slots=True)
class EvaluationForm:
    """What is to be judged, and how.

    Attributes:
        dataset_id, version_id: whose rows; None: those of the data set that a file or a person has kept apart.
        provider, model: what is asked; job_id: the job that made it, None for a base.
        part: which rows: those held out, those for validation, or both.
        kind: `label` (a few short answers) or `text`; None: found out from the rows.
        limit: the most rows; drawn from all over the data set, the same ones for every model.
        max_tokens: of one answer; None: by the rows.
        separator, stop, file_format: how the training file asked, so that the model is asked the same way.
        system: before each prompt; None: what the data set's chat files begin with, nothing for other files.
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
    """Rows that training does not learn from, and what they are like. `labels` are those of all rows, if any."""

    validation: int
    held_out: int
    kind: Kind
    labels: tuple[str, ...]

    @property
    def usable(self) -> int:
        """How many there are to judge by."""
        return self.validation + self.held_out


@dataclass(frozen=True, slots=True)
class HeldOutExample:
    """One row to judge by."""

    key: str
    values: Mapping[str, str]
    prompt: str
    expected: str


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an evaluation found. Shares are 0 to 1.

    Attributes:
        n: rows that were answered.
        accuracy: share of right labels; None for texts.
        exact: share of answers that are the expected text, but for white space.
        loss: nats a token on rows kept from training; None: `loss_note` says why.
        labels, confusion: for labels; an answer that is no label stands under "".
        overlap: how near texts come to the expected ones (chrF), None for labels.
        quality: measures of the data-set report, for texts: `characters`, `distinct_2`, `grave` (share of rows with a
            fault), `adherence` (share of asked-for values that the texts have), those that can be known.
        cost_usd: what the provider bills; None: the price is unknown. Nothing on the engine: `writing_s` counts there.
        writing_s: seconds with requests under way; None: not recorded.
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
        """As JSON keeps it."""
        cost = None if self.cost_usd is None else str(self.cost_usd)
        return {**asdict(self), "cost_usd": cost, "loss_note": to_json(self.loss_note)}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Metrics:
        """Back from JSON."""
        values = dict(kept)
        for name in ("accuracy", "exact", "overlap"):
            values[name] = None if values[name] is None else Interval(**values[name])
        values["labels"] = tuple(LabelScore(**one) for one in values["labels"])
        values["loss_note"] = from_json(values["loss_note"]) or ""
        values["cost_usd"] = None if values["cost_usd"] is None else Decimal(values["cost_usd"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """One evaluation. `answered`, `failed`, `right` count its rows so far; `reason` says why it failed or waits."""

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
        """Whether more will happen to it by itself."""
        return self.state in ACTIVE


@dataclass(frozen=True, slots=True)
class AnswerView:
    """What a model answered to one row. `right` None: it is a text, or there is no answer (`reason`)."""

    id: int
    prompt: str
    expected: str
    text: str | None
    right: bool | None
    reason: str | None
