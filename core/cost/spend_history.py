"""What was really spent, read from the ledger: by day, page, model and person; estimate against actual; as CSV."""

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

from core.cost import custom_prices, engine_time, machine_time
from core.cost.budget import month_start
from core.cost.prices import ENGINE
from core.db.store import Store
from core.db.tables import Dataset, Evaluation, Run, Spend, Story, TrainingJob
from core.sanitize import safe_cell

_PAGE_ROWS = 5_000  # of the export, read at a time
COLUMNS = (
    "at",
    "actor",
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
"""Columns of the export."""


@dataclass(frozen=True, slots=True)
class DayLine:
    """What one model cost one person on one page on one day or month, which begins with `day` (UTC).

    `unknown` calls are not in `cost_usd`. Calls of the engine cost their share of the work's machine time, and are
    unknown while an hour of the machine has no price.
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


@dataclass(frozen=True, slots=True)
class WorkLine:
    """One run, job or story: what it was expected to cost at most, and what it cost.

    Amounts are None where not a single call's is known; `unknown` counts the calls without a known cost. The engine's
    work costs the time of this machine, None without a price of its hour.

    Attributes:
        began: when the run, job or story was started (UTC); of what has none, the first call that the ledger has.
        took_s: seconds of training of a job, until the end of a story, or in which the engine had requests of a run or
            an evaluation; None: not known.
    """

    reference: str
    page: str
    name: str
    provider: str
    model: str
    person: str
    began: datetime
    calls: int
    unknown: int
    estimated_usd: Decimal | None
    cost_usd: Decimal | None
    took_s: float | None = None


def months(store: Store, now: datetime) -> list[datetime]:
    """The first moments (UTC) of all months from the first call's to this one, the newest first."""
    with store.reading() as session:
        first = session.scalar(select(func.min(Spend.at))) or now
    found = [month_start(now)]
    while found[-1] > first:
        found.append(month_start(found[-1] - timedelta(days=1)))
    return found


def days(store: Store, since: datetime, until: datetime) -> list[DayLine]:
    """Day by day from `since` (a midnight, UTC) to before `until`, the oldest first."""
    return by_period(store, [since + timedelta(days=n) for n in range(-(-(until - since) // timedelta(days=1)))], until)


def by_period(store: Store, starts: Sequence[datetime], until: datetime) -> list[DayLine]:
    """Stretch by stretch: each from its start to the next one's, the last to before `until`."""
    found: list[DayLine] = []
    with store.reading() as session:
        for start, end in pairwise([*starts, until]):
            query = (
                select(
                    Spend.page, Spend.provider, Spend.model, Spend.actor, Spend.cost_usd,
                    func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens),
                )
                .where(Spend.at >= start, Spend.at < end, Spend.provider != ENGINE)
                .group_by(Spend.page, Spend.provider, Spend.model, Spend.actor, Spend.cost_usd)
            )  # fmt: skip
            billed = session.execute(query).all()
            found += _of_stretch(start, [*billed, *_engine_calls(store, session, start, end)])
    return found


def _engine_calls(store: Store, session: Session, start: datetime, end: datetime) -> list[tuple[Any, ...]]:
    """The engine's calls as `by_period` reads bills, each at its share of the machine time of its work."""
    query = (
        select(
            Spend.page, Spend.model, Spend.actor, Spend.reference,
            func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens),
        )
        .where(Spend.at >= start, Spend.at < end, Spend.provider == ENGINE)
        .group_by(Spend.page, Spend.model, Spend.actor, Spend.reference)
    )  # fmt: skip
    rows = session.execute(query).all()
    each = engine_time.usd_per_call(store, sorted({row.reference for row in rows}))
    return [
        (page, ENGINE, model, person, each[reference], calls, prompt, completion)
        for page, model, person, reference, calls, prompt, completion in rows
    ]


def known_usd(lines: Iterable[DayLine]) -> Decimal | None:
    """The known amounts together; None where not a single call's is known."""
    found = [line.cost_usd for line in lines if line.unknown < line.calls]
    return sum(found, Decimal(0)) if found else None


def by_reference(store: Store, since: datetime, until: datetime | None = None, limit: int = 50) -> list[WorkLine]:
    """Runs, jobs and stories with calls in that time, and what those cost; the newest first."""
    then = Spend.at >= since if until is None else and_(Spend.at >= since, Spend.at < until)
    newest = (
        select(Spend.reference, func.min(Spend.at).label("began"), func.max(Spend.id).label("last"))
        .where(then)
        .group_by(Spend.reference)
        .order_by(func.max(Spend.id).desc())
        .limit(limit)
        .subquery()
    )
    query = (
        select(
            Spend.reference, Spend.page, Spend.provider, Spend.model, Spend.actor, newest.c.began, newest.c.last,
            Spend.cost_usd, Spend.estimated_usd, func.count(),
        )
        .join(newest, newest.c.reference == Spend.reference)
        .where(then)
        .group_by(
            Spend.reference, Spend.page, Spend.provider, Spend.model, Spend.actor, newest.c.began, newest.c.last,
            Spend.cost_usd, Spend.estimated_usd,
        )
        .order_by(newest.c.last.desc())
    )  # fmt: skip
    lines: dict[str, WorkLine] = {}
    with store.reading() as session:
        for reference, page, provider, model, person, began, _, cost, estimated, calls in session.execute(query):
            old = lines.get(reference) or WorkLine(
                reference, page, "", provider, model, person, began, 0, 0, None, None
            )
            lines[reference] = replace(
                old,
                calls=old.calls + calls,
                unknown=old.unknown + (calls if cost is None else 0),
                estimated_usd=_plus(old.estimated_usd, None if provider == ENGINE else estimated, calls),
                cost_usd=_plus(old.cost_usd, None if provider == ENGINE else cost, calls),
            )
    return _named(store, list(lines.values()))


def export(store: Store, since: datetime, until: datetime) -> bytes:
    """Every call of that time as CSV with a BOM (spreadsheets then read UTF-8); unknown amounts are empty.

    A call of the engine has its share of the machine time of its work.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for rows in _pages(store, since, until):
        each = engine_time.usd_per_call(store, sorted({row.reference for row in rows if row.provider == ENGINE}))
        for row in rows:
            values = {name: getattr(row, name) for name in COLUMNS}
            if row.provider == ENGINE:
                values |= {"estimated_usd": None, "cost_usd": each[row.reference]}
            writer.writerow([_cell(values[name]) for name in COLUMNS])
    return b"\xef\xbb\xbf" + buffer.getvalue().encode()


def _pages(store: Store, since: datetime, until: datetime) -> Iterator[Sequence[Spend]]:
    """The calls of that time, in the order of their ids, some thousands at once."""
    last = 0
    while True:
        query = select(Spend).where(Spend.at >= since, Spend.at < until, Spend.id > last)
        with store.reading() as session:
            found = session.scalars(query.order_by(Spend.id).limit(_PAGE_ROWS)).all()
        yield found
        if len(found) < _PAGE_ROWS:
            return
        last = found[-1].id


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return safe_cell(value) if isinstance(value, str) else value


def _of_stretch(day: datetime, rows: Iterable[Any]) -> list[DayLine]:
    lines: dict[tuple[str, str, str, str], DayLine] = {}
    for page, provider, model, person, cost, calls, prompt, completion in rows:
        key = (page, provider, model, person)
        old = lines.get(key) or DayLine(day, *key, 0, 0, 0, Decimal(0))
        lines[key] = replace(
            old,
            calls=old.calls + calls,
            unknown=old.unknown + (calls if cost is None else 0),
            tokens=old.tokens + int(prompt or 0) + int(completion or 0),
            cost_usd=old.cost_usd + (Decimal(0) if cost is None else cost * calls),
        )
    return sorted(lines.values(), key=lambda line: (-line.cost_usd, line.model, line.person))


def _plus(total: Decimal | None, amount: Decimal | None, calls: int) -> Decimal | None:
    return total if amount is None else (total or Decimal(0)) + amount * calls


def _named(store: Store, lines: list[WorkLine]) -> list[WorkLine]:
    """With name, start, time and estimate from the ledger of runs, jobs and stories; with the cost of machine time."""
    works = _works(store, [line.reference for line in lines])
    engine_s = engine_time.seconds(store, [line.reference for line in lines if line.provider == ENGINE])
    hour = custom_prices.machine_hour(store)
    found = []
    for line in lines:
        work = works.get(line.reference, _WorkFacts("", None))
        local = line.provider == ENGINE
        took_s = engine_s.get(line.reference) if local else work.took_s
        found.append(
            replace(
                line,
                name=work.name,
                began=work.began or line.began,
                took_s=took_s,
                estimated_usd=None if local else line.estimated_usd if work.usd is None else work.usd,
                cost_usd=machine_time.work_usd(hour, line.provider, line.cost_usd, took_s),
            )
        )
    return found


class _WorkFacts(NamedTuple):
    """What is known of a run, job or story beside its calls."""

    name: str
    began: datetime | None
    took_s: float | None = None
    usd: Decimal | None = None  # a job's own estimate


def _works(store: Store, ids: Sequence[str]) -> dict[str, _WorkFacts]:
    runs = select(Run.id, Dataset.name, Run.created_at).join(Dataset, Dataset.id == Run.dataset_id)
    job = (TrainingJob.id, TrainingJob.name, TrainingJob.created_at, TrainingJob.training_s, TrainingJob.estimated_usd)
    with store.reading() as session:
        previews = session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(ids)))  # go by the data set
        found = {key: _WorkFacts(name, None) for key, name in previews}
        found |= {key: _WorkFacts(name, at) for key, name, at in session.execute(runs.where(Run.id.in_(ids)))}
        tests = select(Evaluation.id, Evaluation.model, Evaluation.created_at).where(Evaluation.id.in_(ids))
        found |= {key: _WorkFacts(model, at) for key, model, at in session.execute(tests)}
        stories = select(Story.id, Story.prompt, Story.at, Story.duration_s).where(Story.id.in_(ids))
        for key, prompt, at, took in session.execute(stories):
            found[key] = _WorkFacts(" ".join(prompt.split())[:60], at, took)
        for key, name, at, took, usd in session.execute(select(*job).where(TrainingJob.id.in_(ids))):
            found[key] = _WorkFacts(name, at, took, usd)
    return found
