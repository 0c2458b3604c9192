"""The address that a QR code leads to: how phones reach the pages of guests.

A studio in local mode listens on its own machine only, and everyone who reaches it is an admin. So it is not opened to
the audience: `FABULA_GUEST_PORT` serves the pages of guests alone.
"""

from __future__ import annotations

import io
import ipaddress
import socket
from urllib.parse import urlsplit

import segno

from core.settings import Settings

PATH = "/guest"
_LIGHT_BORDER = 4  # modules, as ISO/IEC 18004 requires; part of the picture, so that it is there on a dark page too
_MODULE_PX = 8  # sharp on a projector
_ELSEWHERE = ("192.0.2.1", 9)  # an address for documentation (RFC 5737); nothing is sent there


def origin(settings: Settings, page_url: str) -> str | None:
    """Scheme, host and port for phones; None if phones cannot reach this studio.

    Args:
        settings: of the studio.
        page_url: the address under which the presenter has opened the studio.
    """
    if settings.guest_url is not None:
        return settings.guest_url
    if settings.guest_port is not None:
        host = _own_address()
        return None if host is None else f"http://{host}:{settings.guest_port}"
    parts = urlsplit(page_url)
    return None if not parts.hostname or _is_loopback(parts.hostname) else f"{parts.scheme}://{parts.netloc}"


def address(origin: str, token: str) -> str:
    """The whole address of a link."""
    return f"{origin}{PATH}/{token}"


def qr_code(address: str) -> bytes:
    """A PNG of the address, dark on white with its border."""
    picture = io.BytesIO()
    segno.make(address, micro=False).save(picture, kind="png", scale=_MODULE_PX, border=_LIGHT_BORDER)
    return picture.getvalue()


def _own_address() -> str | None:
    """This machine's address in its network; None if it is in none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)  # UDP sends nothing here; the system only chooses the address to send from
        except OSError:
            return None
        host = str(probe.getsockname()[0])
    return None if _is_loopback(host) else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
