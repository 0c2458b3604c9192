"""Sends a message by webhook (in the format of Slack, Teams, Feishu, or plain JSON) or by e-mail."""

from __future__ import annotations

import hashlib
import http.client
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Literal, Protocol
from urllib.parse import unquote, urlsplit

Shape = Literal["slack", "teams", "feishu", "json"]
_TIMEOUT_S = 10.0
_READ_BYTES = 10_000
_HOSTS: Mapping[str, Shape] = {
    "hooks.slack.com": "slack",
    "office.com": "teams",
    "logic.azure.com": "teams",
    "powerplatform.com": "teams",
    "feishu.cn": "feishu",
    "larksuite.com": "feishu",
}


class NotSent(Exception):
    """A message was not accepted. The text gives the reason, without addresses or passwords."""


class Channel(Protocol):
    """A way to send messages."""

    @property
    def name(self) -> str:
        """`webhook` or `email`; stored with each alert."""

    def send(self, key: str, title: str, text: str) -> None:
        """Send a message once.

        Raises:
            NotSent: it was not accepted.
        """


@dataclass(frozen=True, slots=True)
class Webhook:
    """An incoming webhook. Its URL is a secret."""

    url: str = field(repr=False)
    shape: Shape
    name: str = "webhook"

    def send(self, key: str, title: str, text: str) -> None:
        """Post the message; see `Channel`."""
        body = json.dumps(_BODIES[self.shape](key, title, text)).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        try:
            with _opener.open(request, timeout=_TIMEOUT_S) as response:
                answer = response.read(_READ_BYTES)
        except urllib.error.HTTPError as exc:
            raise NotSent(f"The webhook answered {exc.code} {exc.reason}.") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise NotSent(f"The webhook cannot be reached: {_reason(exc)}.") from exc
        if self.shape == "feishu" and (code := _feishu_code(answer)):
            raise NotSent(f"The webhook answered with error {code}.")


def shape_of(url: str) -> Shape:
    """The message format that a webhook's host expects; `json` for an unknown host."""
    host = urlsplit(url).hostname or ""
    return next((shape for name, shape in _HOSTS.items() if host == name or host.endswith("." + name)), "json")


@dataclass(frozen=True, slots=True)
class Email:
    """A mail server: `smtp://user:password@host:587` (with STARTTLS if it is offered) or `smtps://…`."""

    url: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    name: str = "email"

    def send(self, key: str, title: str, text: str) -> None:
        """Send the message to all recipients; see `Channel`."""
        message = EmailMessage()
        message["Subject"] = " ".join(title.split())
        message["From"], message["To"], message["Date"] = self.sender, ", ".join(self.recipients), formatdate()
        # Stable per alert, so that a mail server can detect duplicates.
        message["Message-ID"] = f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@fabula>"
        message.set_content(text or title)
        try:
            with self._connect() as server:
                refused = server.send_message(message)
        except smtplib.SMTPResponseException as exc:
            raise NotSent(f"The mail server answered {exc.smtp_code}.") from exc
        except (OSError, smtplib.SMTPException, ValueError) as exc:
            raise NotSent(f"The mail server cannot be used: {_reason(exc)}.") from exc
        if refused:
            raise NotSent(f"The mail server refused {len(refused)} recipients.")

    def _connect(self) -> smtplib.SMTP:
        parts = urlsplit(self.url)
        host, context = parts.hostname or "localhost", ssl.create_default_context()
        if parts.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, parts.port or 465, timeout=_TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(host, parts.port or 25, timeout=_TIMEOUT_S)
        try:
            server.ehlo()
            if parts.scheme != "smtps" and server.has_extn("starttls"):
                server.starttls(context=context)
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
        except BaseException:
            server.close()
            raise
        return server


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would repeat a redirected POST as a GET, without the message."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _slack(_key: str, title: str, text: str) -> dict[str, Any]:
    escaped = [part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for part in (title, text)]
    return {"text": f"*{escaped[0]}*\n{escaped[1]}".strip()}


def _teams(_key: str, title: str, text: str) -> dict[str, Any]:
    blocks = [{"type": "TextBlock", "text": title, "weight": "Bolder", "wrap": True}]
    if text:
        blocks.append({"type": "TextBlock", "text": text, "wrap": True})
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [attachment]}


def _feishu(_key: str, title: str, text: str) -> dict[str, Any]:
    return {"msg_type": "text", "content": {"text": f"{title}\n{text}".strip()}}


def _json(key: str, title: str, text: str) -> dict[str, Any]:
    return {"key": key, "title": title, "text": text}


_BODIES: Mapping[Shape, Callable[[str, str, str], dict[str, Any]]] = {
    "slack": _slack,
    "teams": _teams,
    "feishu": _feishu,
    "json": _json,
}


def _feishu_code(answer: bytes) -> object:
    """Feishu responds with status 200 even if it rejects a message, but then with a nonzero code."""
    try:
        found = json.loads(answer)
    except ValueError:
        return "no JSON"
    return found.get("code") if isinstance(found, dict) else "no object"


def _reason(error: Exception) -> str:
    """A short reason without addresses, which may contain a token or password."""
    cause = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception) else error
    return (getattr(cause, "strerror", None) or type(cause).__name__).rstrip(".")
