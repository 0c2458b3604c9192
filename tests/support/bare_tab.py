"""A tab without a browser: Streamlit's WebSocket with headers that a test chooses, and what one script run draws."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import httpx2
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.support.waiting import WAIT_LIMIT_S

_XSRF = "_streamlit_xsrf"


def joined(
    url: str,
    cookies: Mapping[str, str] | None = None,
    origin: str | None = "",
    headers: Mapping[str, str] | None = None,
    host: str = "",
) -> ClientConnection:
    """An open WebSocket to a studio. `origin`: "" is the studio's own, None sends none. `host`: under another name.

    Raises:
        websockets.exceptions.InvalidStatus: the studio refuses it.
    """
    token = httpx2.get(f"{url}/_stcore/health", timeout=60).cookies.get(_XSRF) or ""
    sent = {**(cookies or {}), _XSRF: token}
    place = url.removeprefix("http://")
    return connect(
        f"ws://{host or place}/_stcore/stream",
        sock=socket.create_connection((place.partition(":")[0], int(place.partition(":")[2]))) if host else None,
        origin=None if origin is None else Origin(origin or url),
        subprotocols=[Subprotocol("streamlit"), Subprotocol(token)],
        additional_headers={"Cookie": "; ".join(f"{n}={v}" for n, v in sent.items()), **(headers or {})},
        max_size=None,
        open_timeout=60,
    )


def drawn(tab: ClientConnection, page: str = "") -> str:
    """Everything that one run of the script sends to a tab, as text."""
    message = BackMsg()
    message.rerun_script.query_string = "lang=en"
    message.rerun_script.page_name = page
    tab.send(message.SerializeToString())
    seen = []
    while True:
        received = ForwardMsg()
        received.ParseFromString(bytes(tab.recv(WAIT_LIMIT_S)))  # type: ignore[arg-type]  # only binary frames are sent
        seen.append(str(received))
        if received.WhichOneof("type") == "script_finished":
            return "\n".join(seen)


def visited(
    url: str, cookies: Mapping[str, str] | None = None, page: str = "", headers: Mapping[str, str] | None = None
) -> str:
    """What a visitor with these cookies sees on a page."""
    with joined(url, cookies, headers=headers) as tab:
        return drawn(tab, page)
