"""Reads the spend ledger: spending by day, page, model and person; estimate and actual cost; CSV export."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from core.db.spend_totals import MAX_COST
from core.db.store import Store
from core.db.tables import Dataset, Evaluation, Run, Spend, Story, TrainingJob
from core.people.people import names_of
from core.pricing import custom_prices, machine_time
from core.pricing.budget import month_start
from core.pricing.prices import ENGINE
from core.sanitize import safe_cell

_EXPORT_PAGE_ROWS = 5_000  # rows per query of the export
COLUMNS = (
    "created_at",
    "actor",
    "person",
    "page",
    "provider",
    "model",
    "reference",
    "prompt_tokens",
    "completion_tokens",
    "counted_prompt_tokens",
    "counted_completion_tokens",
    "estimated_usd",
    "cost_usd",
)
"""Columns of the CSV export. `actor`: the person's id; `person`: their name."""


@dataclass(frozen=True, slots=True)
class DayLine:
    """Spending of one person (id and name) with one model on one page in one period, which starts at `day` (UTC).

    `unknown`: calls that are not in `cost_usd`; `unknown_at_most_usd`: their maximum cost as far as it is known, which
    counts against budgets. Engine calls cost their share of machine time, which is unknown unless a price per machine
    hour is set.
    """

    day: datetime
    page: str
    provider: str
    model: str
    person: str
    calls: int
    unknown: int
    tokens: int
    cost_usd: Decimal
    unknown_at_most_usd: Decimal = Decimal(0)
    person_name: str = ""


@dataclass(frozen=True, slots=True)
class WorkLine:
    """Estimate and actual cost of one run, job or story.

    Attributes:
        person, person_name: id and name of who spent it.
        started_at: start of the run, job or story (UTC); if it has none, its first call in the ledger.
        unknown: number of calls without a known cost.
        estimated_usd, cost_usd: None if unknown for every call. On the engine, the cost of machine time.
        duration_s: for a job, the seconds of training; for a story, those until its end; for a run or an evaluation on
            the engine, those with requests in flight; None if unknown.
    """

    reference: str
    page: str
    name: str
    provider: str
    model: str
    person: str
    started_at: datetime
    calls: int
    unknown: int
    estimated_usd: Decimal | None
    cost_usd: Decimal | None
    duration_s: float | None = None
    person_name: str = ""


def months(store: Store, now: datetime) -> list[datetime]:
    """The starts (UTC) of all months from the first call to now, newest first."""
    with store.reading() as session:
        first = session.scalar(select(func.min(Spend.created_at))) or now
    result = [month_start(now)]
    while result[-1] > first:
        result.append(month_start(result[-1] - timedelta(days=1)))
    return result


def by_period(store: Store, starts: Sequence[datetime], until: datetime) -> list[DayLine]:
    """Spending by period. Each period lasts until the next start, the last one until before `until`."""
    result: list[DayLine] = []
    with store.reading() as session:
        for start, end in pairwise([*starts, until]):
            query = (
                select(
                    Spend.page, Spend.provider, Spend.model, Spend.actor, Spend.cost_usd, MAX_COST,
                    func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens),
                )
                .where(Spend.created_at >= start, Spend.created_at < end, Spend.provider != ENGINE)
                .group_by(Spend.page, Spend.provider, Spend.model, Spend.actor, Spend.cost_usd, MAX_COST)
            )  # fmt: skip
            billed = session.execute(query).all()
            result += _day_lines(start, [*billed, *_engine_calls(store, session, start, end)])
        names = names_of(session, [line.person for line in result])
    return [replace(line, person_name=names.get(line.person, line.person)) for line in result]


def _engine_calls(store: Store, session: Session, start: datetime, end: datetime) -> list[tuple[Any, ...]]:
    """The engine's calls in the columns of `by_period`, each with its share of machine time."""
    query = (
        select(
            Spend.page, Spend.model, Spend.actor, Spend.reference,
            func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens),
        )
        .where(Spend.created_at >= start, Spend.created_at < end, Spend.provider == ENGINE)
        .group_by(Spend.page, Spend.model, Spend.actor, Spend.reference)
    )  # fmt: skip
    rows = session.execute(query).all()
    usd_per_call = machine_time.usd_per_call(store, sorted({row.reference for row in rows}))
    return [
        (page, ENGINE, model, person, usd_per_call[reference], None, calls, prompt, completion)
        for page, model, person, reference, calls, prompt, completion in rows
    ]


def known_usd(lines: Iterable[DayLine]) -> Decimal | None:
    """The sum of the known costs; None if no cost is known."""
    known = [line.cost_usd for line in lines if line.unknown < line.calls]
    return sum(known, Decimal(0)) if known else None


def by_reference(
    store: Store, since: datetime, until: datetime | None = None, *, person: str | None = None, limit: int = 50
) -> list[WorkLine]:
    """Runs, jobs and stories with calls in the period, and the cost of these calls, newest first.

    `person`: only calls that this person paid for (`Actor.id`).
    """
    in_period = (
        Spend.created_at >= since if until is None else and_(Spend.created_at >= since, Spend.created_at < until)
    )
    if person is not None:
        in_period = and_(in_period, Spend.actor == person)
    newest = (
        select(Spend.reference, func.min(Spend.created_at).label("started_at"), func.max(Spend.id).label("last"))
        .where(in_period)
        .group_by(Spend.reference)
        .order_by(func.max(Spend.id).desc())
        .limit(limit)
        .subquery()
    )
    query = (
        select(
            Spend.reference, Spend.page, Spend.provider, Spend.model, Spend.actor, newest.c.started_at, newest.c.last,
            Spend.cost_usd, Spend.estimated_usd, func.count(),
        )
        .join(newest, newest.c.reference == Spend.reference)
        .where(in_period)
        .group_by(
            Spend.reference, Spend.page, Spend.provider, Spend.model, Spend.actor, newest.c.started_at, newest.c.last,
            Spend.cost_usd, Spend.estimated_usd,
        )
        .order_by(newest.c.last.desc())
    )  # fmt: skip
    lines: dict[str, WorkLine] = {}
    with store.reading() as session:
        for reference, page, provider, model, person, started_at, _, cost, estimated, calls in session.execute(query):
            line = lines.get(reference) or WorkLine(
                reference, page, "", provider, model, person, started_at, 0, 0, None, None
            )
            lines[reference] = replace(
                line,
                calls=line.calls + calls,
                unknown=line.unknown + (calls if cost is None else 0),
                estimated_usd=_add_known(line.estimated_usd, None if provider == ENGINE else estimated, calls),
                cost_usd=_add_known(line.cost_usd, None if provider == ENGINE else cost, calls),
            )
        names = names_of(session, [line.person for line in lines.values()])
    named = [replace(line, person_name=names.get(line.person, line.person)) for line in lines.values()]
    return _with_details(store, named)


def export(store: Store, since: datetime, until: datetime, person: str | None = None) -> bytes:
    """All calls in the period as CSV with a BOM (for spreadsheets). Unknown amounts are empty.

    Engine calls cost their share of machine time. `person`: only calls that this person paid for (`Actor.id`).
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for rows in _pages(store, since, until, person):
        usd_per_call = machine_time.usd_per_call(
            store, sorted({row.reference for row in rows if row.provider == ENGINE})
        )
        with store.reading() as session:
            names = names_of(session, [row.actor for row in rows])
        for row in rows:
            values = {name: getattr(row, name) for name in COLUMNS if name != "person"}
            values["person"] = names.get(row.actor, row.actor)
            if row.provider == ENGINE:
                values |= {"estimated_usd": None, "cost_usd": usd_per_call[row.reference]}
            writer.writerow([_cell(values[name]) for name in COLUMNS])
    return b"\xef\xbb\xbf" + buffer.getvalue().encode()


def _pages(store: Store, since: datetime, until: datetime, person: str | None) -> Iterator[Sequence[Spend]]:
    """The calls in the period by id, in pages of `_EXPORT_PAGE_ROWS`."""
    last = 0
    while True:
        query = select(Spend).where(Spend.created_at >= since, Spend.created_at < until, Spend.id > last)
        if person is not None:
            query = query.where(Spend.actor == person)
        with store.reading() as session:
            rows = session.scalars(query.order_by(Spend.id).limit(_EXPORT_PAGE_ROWS)).all()
        yield rows
        if len(rows) < _EXPORT_PAGE_ROWS:
            return
        last = rows[-1].id


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return safe_cell(value) if isinstance(value, str) else value


def _day_lines(day: datetime, rows: Iterable[Any]) -> list[DayLine]:
    lines: dict[tuple[str, str, str, str], DayLine] = {}
    for page, provider, model, person, cost, at_most, calls, prompt, completion in rows:
        key = (page, provider, model, person)
        line = lines.get(key) or DayLine(day, *key, 0, 0, 0, Decimal(0))
        lines[key] = replace(
            line,
            calls=line.calls + calls,
            unknown=line.unknown + (calls if cost is None else 0),
            tokens=line.tokens + int(prompt or 0) + int(completion or 0),
            cost_usd=line.cost_usd + (Decimal(0) if cost is None else cost * calls),
            unknown_at_most_usd=line.unknown_at_most_usd + (at_most or Decimal(0)) * (calls if cost is None else 0),
        )
    return sorted(lines.values(), key=lambda line: (-line.cost_usd, line.model, line.person))


def _add_known(total: Decimal | None, amount: Decimal | None, calls: int) -> Decimal | None:
    return total if amount is None else (total or Decimal(0)) + amount * calls


def _with_details(store: Store, lines: list[WorkLine]) -> list[WorkLine]:
    """Add name, start, duration and estimate of the runs, jobs and stories, and the cost of machine time."""
    facts_by_id = _work_facts(store, [line.reference for line in lines])
    engine_seconds = machine_time.engine_seconds(store, [line.reference for line in lines if line.provider == ENGINE])
    machine_hour = custom_prices.machine_hour(store)
    result = []
    for line in lines:
        facts = facts_by_id.get(line.reference, _WorkFacts("", None))
        local = line.provider == ENGINE
        duration_s = engine_seconds.get(line.reference) if local else facts.duration_s
        result.append(
            replace(
                line,
                name=facts.name,
                started_at=facts.started_at or line.started_at,
                duration_s=duration_s,
                estimated_usd=None
                if local
                else line.estimated_usd
                if facts.estimated_usd is None
                else facts.estimated_usd,
                cost_usd=machine_time.work_usd(machine_hour, line.provider, line.cost_usd, duration_s),
            )
        )
    return result


class _WorkFacts(NamedTuple):
    """Facts about a run, job or story that are not in its calls."""

    name: str
    started_at: datetime | None
    duration_s: float | None = None
    estimated_usd: Decimal | None = None  # a job's own estimate


def _work_facts(store: Store, ids: Sequence[str]) -> dict[str, _WorkFacts]:
    runs = select(Run.id, Dataset.name, Run.created_at).join(Dataset, Dataset.id == Run.dataset_id)
    job = (TrainingJob.id, TrainingJob.name, TrainingJob.created_at, TrainingJob.training_s, TrainingJob.estimated_usd)
    with store.reading() as session:
        # previews have the id of their data set
        previews = session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(ids)))
        result = {key: _WorkFacts(name, None) for key, name in previews}
        result |= {
            key: _WorkFacts(name, started_at) for key, name, started_at in session.execute(runs.where(Run.id.in_(ids)))
        }
        evaluations = select(Evaluation.id, Evaluation.model, Evaluation.created_at).where(Evaluation.id.in_(ids))
        result |= {key: _WorkFacts(model, started_at) for key, model, started_at in session.execute(evaluations)}
        stories = select(Story.id, Story.prompt, Story.created_at, Story.duration_s).where(Story.id.in_(ids))
        for key, prompt, started_at, duration_s in session.execute(stories):
            result[key] = _WorkFacts(" ".join(prompt.split())[:60], started_at, duration_s)
        for key, name, started_at, duration_s, estimated_usd in session.execute(
            select(*job).where(TrainingJob.id.in_(ids))
        ):
            result[key] = _WorkFacts(name, started_at, duration_s, estimated_usd)
    return result
