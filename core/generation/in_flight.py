"""The requests of one executor: in flight, or waiting (without a slot) for a retry. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from core.generation.claims import PendingRequest
from core.generation.row_store import Claim


class InFlight:
    """Requests that are claimed, but neither settled nor released.

    Args:
        slot_per_row: the provider generates the answers of one request in parallel, so each row takes a slot.
    """

    def __init__(self, slot_per_row: bool) -> None:
        self._slot_per_row = slot_per_row
        self._requests: dict[PendingRequest, int] = {}  # request → slots it takes
        self._waiting: list[tuple[float, int, PendingRequest]] = []  # a heap by the time of the retry
        self.weight = 0
        """Slots in use."""

    def __bool__(self) -> bool:
        """True if a request is in flight."""
        return bool(self._requests)

    def __len__(self) -> int:
        """Number of requests in flight."""
        return len(self._requests)

    @property
    def waiting(self) -> int:
        """Number of requests waiting for a retry."""
        return len(self._waiting)

    @property
    def next_at(self) -> float | None:
        """When the first of the waiting requests is due (monotonic seconds). None: none is waiting."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def all_retried(self) -> bool:
        """True if no request in flight is on its first attempt."""
        return all(request.attempts.count > 1 for request in self._requests)

    def sent(self, request: PendingRequest) -> None:
        """Count the request as in flight."""
        self._requests[request] = self.slots_for(request)
        self.weight += self._requests[request]

    def slots_for(self, request: PendingRequest) -> int:
        """Number of slots that a request takes."""
        return len(request.claims) if self._slot_per_row else 1

    def finished(self, request: PendingRequest) -> None:
        """The request has ended: free its slots."""
        self.weight -= self._requests.pop(request)

    def wait(self, request: PendingRequest, until: float) -> None:
        """Schedule the request to be sent again at `until` (monotonic seconds)."""
        heapq.heappush(self._waiting, (until, request.claims[0].row_id, request))

    def due(self, now: float) -> PendingRequest | None:
        """Take the next request whose wait is over. None: there is none."""
        return heapq.heappop(self._waiting)[2] if self._waiting and self._waiting[0][0] <= now else None

    def due_count(self, now: float) -> int:
        """Number of requests whose wait is over."""
        if not self._waiting or self._waiting[0][0] > now:
            return 0
        return sum(until <= now for until, _, _ in self._waiting)

    def in_flight_claims(self) -> Iterator[Claim]:
        """The rows in flight."""
        return (claim for request in self._requests for claim in request.claims)

    def waiting_claims(self) -> Iterator[Claim]:
        """The rows waiting for a retry. The retry has a reservation and has not been sent."""
        return (claim for _, _, request in self._waiting for claim in request.claims)
