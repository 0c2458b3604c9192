"""The table of alerts. Each event is stored once per channel before it is sent, and is claimed by one worker at a time.

If a worker is killed after sending an alert and before recording that, the alert is sent again after `_CLAIM`; nothing
else is sent twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update

from core.alerts import shutdown_events
from core.alerts.events import find
from core.db.store import Store, advisory_lock
from core.db.tables import Alert, utcnow

MAX_TRIES = 8
_CLAIM = timedelta(minutes=2)  # longer than an attempt may take
_FIRST_PAUSE = timedelta(seconds=30)  # doubled after each attempt: eight take about an hour
_OLDEST = timedelta(days=2)  # older events are not reported, for example after alerts were off for a while
_START = "start"  # key of the row whose time is the start of reporting


@dataclass(frozen=True, slots=True)
class ClaimedAlert:
    """An alert to send now."""

    key: str
    channel: str
    title: str
    text: str
    tries: int


def collect(store: Store, channels: Sequence[str], now: datetime | None = None, *, shutdowns: bool = True) -> int:
    """Store new events for these channels and return their number. The first call only records the start time.

    Args:
        now: UTC; default: the current time.
        shutdowns: also look for models that stop soon, which reads more.
    """
    now = now or utcnow()
    with store.reading() as session:
        start = session.scalar(select(Alert.created_at).where(Alert.key == _START))
        known = set(session.scalars(select(Alert.key)))
        events = [] if start is None else find(session, max(start, now - _OLDEST), now, known)
    if start is not None and shutdowns:
        events += shutdown_events.find(store, now, known)
    if start is not None and not events:
        return 0
    with store.session() as session:
        advisory_lock(session, "alerts")
        if start is None:
            if session.get(Alert, (_START, "")) is None:
                session.add(Alert(key=_START, channel="", title="", text="", created_at=now, sent_at=now))
            return 0
        known = set(session.scalars(select(Alert.key)))  # another worker may have been faster
        new = [event for event in events if event.key not in known]
        session.add_all(
            Alert(key=event.key, channel=channel, title=event.title, text=event.text)
            for event in new
            for channel in channels
        )
        return len(new)


def claim(store: Store, channels: Sequence[str]) -> ClaimedAlert | None:
    """Claim the oldest alert that is due, for one attempt; None: none is due."""
    now = utcnow()
    due = (Alert.sent_at.is_(None), Alert.not_before <= now, Alert.tries < MAX_TRIES, Alert.channel.in_(channels))
    oldest = select(Alert).where(*due).order_by(Alert.created_at).limit(1)
    with store.reading() as session:
        if session.scalar(oldest) is None:
            return None
    with store.session() as session:
        advisory_lock(session, "alerts")
        row = session.scalar(oldest)
        if row is None:  # another worker was faster
            return None
        row.not_before, row.tries = now + _CLAIM, row.tries + 1
        return ClaimedAlert(row.key, row.channel, row.title, row.text, row.tries)


def sent(store: Store, alert: ClaimedAlert) -> None:
    """Record that an alert was sent."""
    _set(store, alert, sent_at=utcnow(), error=None)


def failed(store: Store, alert: ClaimedAlert, reason: str) -> None:
    """Record a failed attempt. There are up to `MAX_TRIES`, with a longer pause after each."""
    pause = _FIRST_PAUSE * 2 ** (alert.tries - 1)
    _set(store, alert, not_before=utcnow() + pause, error=reason[:500])


def _set(store: Store, alert: ClaimedAlert, **values: datetime | str | None) -> None:
    with store.session() as session:
        found = update(Alert).where(Alert.key == alert.key, Alert.channel == alert.channel)
        session.execute(found.values(**values))
