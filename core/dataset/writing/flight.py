"""The requests of one executor: those under way, and those that wait, without a slot, for their next try. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from core.dataset.writing.ledger import Claim
from core.dataset.writing.supply import Work


class Flight:
    """What has been claimed and is neither settled nor given back.

    Args:
        side_by_side: the provider writes the answers of one request at the same time, so that each takes a slot.
    """

    def __init__(self, side_by_side: bool) -> None:
        self._side_by_side = side_by_side
        self._flying: dict[Work, int] = {}  # how many of the slots each takes
        self._waiting: list[tuple[float, int, Work]] = []  # a heap by the time of the next try
        self.weight = 0
        """Slots that are taken."""

    def __bool__(self) -> bool:
        """Whether anything is under way."""
        return bool(self._flying)

    def __len__(self) -> int:
        """Requests under way."""
        return len(self._flying)

    @property
    def waiting(self) -> int:
        """Requests that wait for their next try."""
        return len(self._waiting)

    @property
    def next_at(self) -> float | None:
        """When the first of those is due (a clock's seconds); None: none waits."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def all_retried(self) -> bool:
        """Whether nothing is under way for the first time."""
        return all(work.tries.count > 1 for work in self._flying)

    def sent(self, work: Work) -> None:
        """It is under way from now on."""
        self._flying[work] = self.weigh(work)
        self.weight += self._flying[work]

    def weigh(self, work: Work) -> int:
        """How many of the slots a request takes."""
        return len(work.claims) if self._side_by_side else 1

    def landed(self, work: Work) -> None:
        """It has ended."""
        self.weight -= self._flying.pop(work)

    def wait(self, work: Work, until: float) -> None:
        """It is sent again then."""
        heapq.heappush(self._waiting, (until, work.claims[0].row_id, work))

    def due(self, now: float) -> Work | None:
        """One that has waited long enough."""
        return heapq.heappop(self._waiting)[2] if self._waiting and self._waiting[0][0] <= now else None

    def due_count(self, now: float) -> int:
        """How many have waited long enough."""
        if not self._waiting or self._waiting[0][0] > now:
            return 0
        return sum(until <= now for until, _, _ in self._waiting)

    def flying_claims(self) -> Iterator[Claim]:
        """The rows under way."""
        return (claim for work in self._flying for claim in work.claims)

    def waiting_claims(self, *, marked: bool) -> Iterator[Claim]:
        """The rows that wait, and whose last request may be billed (`marked`), or is not."""
        return (claim for _, _, work in self._waiting if work.marked is marked for claim in work.claims)
