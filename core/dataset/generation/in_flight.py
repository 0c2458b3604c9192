"""The requests of one executor: those under way, and those that wait, without a slot, for their next try. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from core.dataset.generation.claims import PendingRequest
from core.dataset.generation.row_store import Claim


class InFlight:
    """What has been claimed and is neither settled nor given back.

    Args:
        side_by_side: the provider writes the answers of one request at the same time, so that each takes a slot.
    """

    def __init__(self, side_by_side: bool) -> None:
        self._side_by_side = side_by_side
        self._flying: dict[PendingRequest, int] = {}  # how many of the slots each takes
        self._waiting: list[tuple[float, int, PendingRequest]] = []  # a heap by the time of the next try
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
        return all(request.tries.count > 1 for request in self._flying)

    def sent(self, request: PendingRequest) -> None:
        """It is under way from now on."""
        self._flying[request] = self.slots_for(request)
        self.weight += self._flying[request]

    def slots_for(self, request: PendingRequest) -> int:
        """How many of the slots a request takes."""
        return len(request.claims) if self._side_by_side else 1

    def finished(self, request: PendingRequest) -> None:
        """It has ended."""
        self.weight -= self._flying.pop(request)

    def wait(self, request: PendingRequest, until: float) -> None:
        """It is sent again then."""
        heapq.heappush(self._waiting, (until, request.claims[0].row_id, request))

    def due(self, now: float) -> PendingRequest | None:
        """One that has waited long enough."""
        return heapq.heappop(self._waiting)[2] if self._waiting and self._waiting[0][0] <= now else None

    def due_count(self, now: float) -> int:
        """How many have waited long enough."""
        if not self._waiting or self._waiting[0][0] > now:
            return 0
        return sum(until <= now for until, _, _ in self._waiting)

    def in_flight_claims(self) -> Iterator[Claim]:
        """The rows under way."""
        return (claim for request in self._flying for claim in request.claims)

    def waiting_claims(self, *, marked: bool) -> Iterator[Claim]:
        """The rows that wait, and whose last request may be billed (`marked`), or is not."""
        return (claim for _, _, request in self._waiting if request.marked is marked for claim in request.claims)
