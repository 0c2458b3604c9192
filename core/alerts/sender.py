"""The worker's thread that finds and sends alerts. Runs and jobs never wait for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from core import i18n, logs, metrics
from core.alerts import outbox
from core.alerts.channels import Channel, Email, NotSent, Webhook, shape_of
from core.db.store import Store
from core.errors import StorageFull
from core.settings import Settings

_POLL_S = 5.0
_SHUTDOWNS_S = 600.0  # interval between looks for models that stop soon; their days are whole days
_STOP_S = 2.0  # longest wait for an attempt in progress; if it is cut off, the alert is sent again later
_log = logging.getLogger("fabula.alerts")


def configured_channels(settings: Settings) -> list[Channel]:
    """The channels that are set up in the settings."""
    found: list[Channel] = []
    if settings.alert_webhook:
        logs.register_secret(settings.alert_webhook)
        found.append(Webhook(settings.alert_webhook, settings.alert_webhook_shape or shape_of(settings.alert_webhook)))
    if settings.alert_smtp_url and settings.alert_email_to:
        logs.register_secret(settings.alert_smtp_url)
        recipients = settings.alert_email_to
        found.append(Email(settings.alert_smtp_url, settings.alert_email_from or recipients[0], recipients))
    return found


class AlertSender:
    """Finds and sends alerts until stopped. Without channels it does nothing.

    Args:
        store: the ledger.
        channels: where to send alerts; their names must be distinct.
        language: language of the messages.
        poll_s: interval between checks of the ledger, in seconds.
    """

    def __init__(
        self, store: Store, channels: Sequence[Channel], language: str = "en", poll_s: float = _POLL_S
    ) -> None:
        self._store, self._channels, self._poll_s = store, {one.name: one for one in channels}, poll_s
        self._translator = i18n.translator(language)
        self._stopping = threading.Event()
        self._shutdowns_at = 0.0  # the next look for models that stop soon, by the monotonic clock
        self._thread = threading.Thread(target=self._run, name="fabula-alerts", daemon=True)

    def start(self) -> None:
        """Start in a thread; returns immediately."""
        if self._channels:
            self._thread.start()

    def begin_stop(self) -> None:
        """Send nothing more; returns immediately."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop within seconds."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def send_due(self) -> None:
        """Store new alerts, and send those that are due, once each.

        Raises:
            StorageFull: the database is unavailable.
        """
        names = list(self._channels)
        look = time.monotonic() >= self._shutdowns_at
        outbox.collect(self._store, names, shutdowns=look)
        if look:
            self._shutdowns_at = time.monotonic() + _SHUTDOWNS_S
        while not self._stopping.is_set() and (alert := outbox.claim(self._store, names)) is not None:
            try:
                title, text = (self._translator.translated(part) for part in (alert.title, alert.text))
                self._channels[alert.channel].send(alert.key, title, text)
            except NotSent as exc:
                metrics.alert_ended("failed")
                _log.warning(
                    "The alert %s was not sent (%s of %s tries). %s", alert.key, alert.tries, outbox.MAX_TRIES, exc
                )
                outbox.failed(self._store, alert, str(exc))
            else:
                metrics.alert_ended("sent")
                outbox.sent(self._store, alert)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.send_due()
            except StorageFull:
                pass  # the worker reports this; the alerts are found again once the database is back
            except Exception:  # a bug here must not end the alerts
                _log.exception("Unexpected error while alerts were sent.")
            self._stopping.wait(self._poll_s)
