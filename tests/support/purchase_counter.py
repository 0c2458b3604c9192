"""A provider that counts what it sells: per prompt and per client, with a limit to how many answers it gives.

A request is paid for when its answer is sent. A request whose client has disconnected before that is not answered
and not billed; it is counted separately.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import Counter

from tests.support import fault_server
from tests.support.fault_server import GIVE_UP_S, Answer, FaultHandler, FaultServer, prompt_of

_NOW_S = 0  # of `select`: do not wait
_POLL_S = 0.1  # how quickly a closed connection is noticed


class _CountingHandler(FaultHandler):
    fault: PurchaseCounter

    def _complete(self, answer: Answer, body: object) -> None:
        client = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if self.fault.sell(client, prompt_of(body), self.connection):
            super()._complete(answer, body)
        else:
            self.close_connection = True


class PurchaseCounter(FaultServer):
    """Answers on all addresses of this machine, until `limit` answers are sent.

    Attributes:
        answers: their number per prompt.
        clients: number of answers per client, by its key.
        waiting: number of requests per client that wait for an answer.
        unanswered: prompts whose client disconnected before the answer.
    """

    handler = _CountingHandler
    address = "0.0.0.0"

    def __init__(self, limit: int = 1_000_000) -> None:
        super().__init__(default=lambda prompt: fault_server.text(f"A story of {prompt}."))
        self.answers: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self.unanswered: list[str] = []
        self._limit, self._sold = limit, 0
        self._may_sell = threading.Condition()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def sold_out(self) -> bool:
        """Whether no more requests are answered until the limit is raised."""
        return self._sold >= self._limit

    def raise_limit(self, limit: int) -> None:
        """Send up to `limit` answers in total."""
        with self._may_sell:
            self._limit = limit
            self._may_sell.notify_all()

    def sell_more(self, answers: int) -> None:
        """Raise the limit by this many answers."""
        self.raise_limit(self._limit + answers)

    def sell(self, client: str, prompt: str, connection: socket.socket) -> bool:
        """Wait until this request may be answered; return whether its client is still connected."""
        with self._may_sell:
            self.waiting[client] += 1
            ends = time.monotonic() + GIVE_UP_S
            while not (gone := _disconnected(connection) or time.monotonic() > ends) and self.sold_out:
                self._may_sell.wait(_POLL_S)
            self.waiting[client] -= 1
            if gone:
                self.unanswered.append(prompt)
                return False
            self._sold += 1
            self.answers[prompt] += 1
            self.clients[client] += 1
            return True


def _disconnected(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], _NOW_S)
    try:
        return bool(readable) and not connection.recv(1, socket.MSG_PEEK)
    except ConnectionError:
        return True
