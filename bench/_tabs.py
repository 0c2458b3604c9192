"""Open browser tabs without a browser: real WebSockets of a studio that run the timers of their page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

XSRF_COOKIE = "_streamlit_xsrf"
_SLOW_S = 120.0  # an answer that takes longer counts as lost


class Tab:
    """One open page. Like a browser, it keeps large elements and reruns fragments when their timers end.

    Attributes:
        timers: fragments that the page reruns on a timer, and their intervals in seconds.
        shown_at: when one of the sentences that the tab looks out for arrived (`time.monotonic`); None if not yet.
    """

    def __init__(self, stream: ClientConnection, page: str, sentences: Sequence[str]) -> None:
        self.timers: dict[str, float] = {}
        self.shown_at: float | None = None
        self._stream, self._page, self._query = stream, page, "lang=en"
        self._sentences = [sentence.encode() for sentence in sentences]
        self._kept: set[str] = set()  # hashes of large elements
        self._seen: set[str] = set()  # the same, of the current run
        self._in_fragment = False
        self._finished = asyncio.Event()
        self._failure: Exception | None = None

    async def rerun(self, fragment_id: str = "") -> float:
        """Rerun the page, or one of its fragments as its timer does; return the seconds until the end of the answer."""
        message = BackMsg()
        ask = message.rerun_script
        ask.query_string, ask.page_name = self._query, self._page
        ask.fragment_id, ask.is_auto_rerun = fragment_id, bool(fragment_id)
        ask.cached_message_hashes.extend(self._kept)
        self._finished.clear()
        began = time.perf_counter()
        await self._stream.send(message.SerializeToString())
        await asyncio.wait_for(self._finished.wait(), _SLOW_S)
        if self._failure is not None:
            raise self._failure
        return time.perf_counter() - began

    async def stay(self, seconds: float, polls: list[float] | None = None) -> None:
        """Keep the page open for this long. `polls`: gets the durations of the reruns that its timers ask for."""
        ends = time.monotonic() + seconds
        due = {one: time.monotonic() + every for one, every in self.timers.items()}
        while due and (at := min(due.values())) < ends:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            fragment_id = min(due, key=due.__getitem__)
            took = await self.rerun(fragment_id)
            if polls is not None:
                polls.append(took)
            now = time.monotonic()
            due = {one: due.get(one, now + every) for one, every in self.timers.items()}
            if fragment_id in due:  # a browser's timer does not wait for the answer
                due[fragment_id] = max(due[fragment_id] + self.timers[fragment_id], now)
        await asyncio.sleep(max(0.0, ends - time.monotonic()))

    async def read(self) -> None:
        """Take in what the studio sends, until cancelled."""
        try:
            async for received in self._stream:
                data = received if isinstance(received, bytes) else received.encode()
                if self.shown_at is None and any(sentence in data for sentence in self._sentences):
                    self.shown_at = time.monotonic()
                self._take(ForwardMsg.FromString(data))
            self._failure = ConnectionError("the studio has closed the tab's connection")
        except Exception as exc:
            self._failure = exc
        self._finished.set()

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "delta":
            if message.metadata.cacheable:
                self._seen.add(message.hash)
        elif kind == "ref_hash":
            self._seen.add(message.ref_hash)
        elif kind == "new_session":
            self._in_fragment = bool(message.metadata.run.fragment_ids)
            self._seen = set()
            if not self._in_fragment:
                self.timers.clear()
        elif kind == "auto_rerun":
            self.timers[message.auto_rerun.fragment_id] = message.auto_rerun.interval
        elif kind == "stop_auto_rerun":
            for fragment_id in message.stop_auto_rerun.fragment_ids:
                self.timers.pop(fragment_id, None)
        elif kind == "page_info_changed":
            self._query = message.page_info_changed.query_string
        elif kind == "script_finished" and message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
            self._kept = self._kept | self._seen if self._in_fragment else self._seen
            self._finished.set()


@asynccontextmanager
async def opened(
    url: str, page: str, cookies: Mapping[str, str], *, sentences: Sequence[str] = ()
) -> AsyncIterator[Tab]:
    """Open a page of a studio, and close it at the end of the block.

    Args:
        url: the studio's address.
        page: URL path of the page.
        cookies: of a person who has signed in; with `XSRF_COOKIE`.
        sentences: what the tab looks out for; see `Tab.shown_at`.
    """
    async with connect(
        url.replace("http", "ws", 1) + "/_stcore/stream",
        origin=Origin(url),
        subprotocols=[Subprotocol("streamlit"), Subprotocol(cookies[XSRF_COOKIE])],
        additional_headers={"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())},
        max_size=None,
        compression=None,  # Streamlit does not compress either
    ) as stream:
        tab = Tab(stream, page, sentences)
        reader = asyncio.create_task(tab.read())
        try:
            await tab.rerun()
            yield tab
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
