"""Two evaluations against each other, row by row: does tuning help?"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import EvaluationAnswer
from core.errors import FabulaError
from core.message import msg
from core.training import scoring
from core.training.evaluation_types import EvaluationView
from core.training.evaluations import get
from core.training.scoring import Interval


@dataclass(frozen=True, slots=True)
class EvaluationComparison:
    """Two models on the same rows. `p_value` None: scores of texts, where the interval of the difference tells."""

    n: int
    tuned: Interval
    base: Interval
    difference: Interval
    p_value: float | None
    sentence: str


def compare_evaluations(store: Store, tuned_id: str, base_id: str) -> EvaluationComparison:
    """Two evaluations, row by row, on the rows that both have answered.

    Raises:
        NotFound: one of them is not there.
        FabulaError: they have no row in common, or are of different kinds.
    """
    one, other = get(store, tuned_id), get(store, base_id)
    if one.kind != other.kind:
        raise FabulaError(
            msg("The two evaluations are of different kinds."), msg("Judge both models on the same rows.")
        )
    mine, theirs = _scores(store, one), _scores(store, other)
    shared = [key for key in mine if key in theirs]
    if not shared:
        raise FabulaError(msg("The two evaluations have no row in common."), msg("Judge both models on the same rows."))
    left, right = [mine[key] for key in shared], [theirs[key] for key in shared]
    apart = scoring.difference(left, right)
    interval = _shares if one.kind == "label" else scoring.mean
    tuned, base = interval(left), interval(right)
    assert apart is not None and tuned is not None and base is not None
    p_value = None
    if one.kind == "label":
        only = [sum(1 for a, b in zip(left, right, strict=True) if (a, b) == pair) for pair in ((1, 0), (0, 1))]
        p_value = scoring.mcnemar(*only)
    return EvaluationComparison(
        len(shared), tuned, base, apart, p_value, _sentence(one.kind, len(shared), tuned, base, apart)
    )


def _scores(store: Store, evaluation: EvaluationView) -> dict[str, float]:
    """Score of each answered row: right or not for labels, chrF for texts."""
    query = select(
        EvaluationAnswer.row_key, EvaluationAnswer.right, EvaluationAnswer.text, EvaluationAnswer.expected
    ).where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None))
    with store.reading() as session:
        rows = session.execute(query).all()
    if evaluation.kind == "label":
        return {key: float(bool(right)) for key, right, _, _ in rows}
    return {key: scoring.chrf(text or "", expected) for key, _, text, expected in rows}


def _shares(scores: list[float]) -> Interval | None:
    return scoring.wilson(int(sum(scores)), len(scores))


def _sentence(kind: str, n: int, tuned: Interval, base: Interval, apart: Interval) -> str:
    """The comparison in words; "no clear difference" where 0 lies inside the interval."""
    if kind == "label":
        if apart.low > 0:
            return msg(
                "Fine-tuning helped: {value} correct against {other}, on {n} rows that it never saw.",
                value=f"{tuned.value:.0%}",
                other=f"{base.value:.0%}",
                n=f"{n:,}",
            )
        if apart.high < 0:
            return msg(
                "Fine-tuning made it worse: {value} correct against {other}, on {n} rows that it never saw.",
                value=f"{tuned.value:.0%}",
                other=f"{base.value:.0%}",
                n=f"{n:,}",
            )
        return msg(
            "No clear difference: {value} correct against {other}, on {n} rows. Use more rows to find out.",
            value=f"{tuned.value:.0%}",
            other=f"{base.value:.0%}",
            n=f"{n:,}",
        )
    if apart.low > 0:
        return msg(
            "Fine-tuning helped: its texts are closer to what was expected ({value} against {other}).",
            value=f"{tuned.value:.2f}",
            other=f"{base.value:.2f}",
        )
    if apart.high < 0:
        return msg(
            "Fine-tuning made it worse: its texts are further from what was expected ({value} against {other}).",
            value=f"{tuned.value:.2f}",
            other=f"{base.value:.2f}",
        )
    return msg(
        "No clear difference: {value} against {other}, on {n} rows. Use more rows to find out.",
        value=f"{tuned.value:.2f}",
        other=f"{base.value:.2f}",
        n=f"{n:,}",
    )
