"""Background quality measurement: one per data set at a time, shared by all visitors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from core.datasets.quality import QualityReport
from core.errors import FabulaError
from pages.ui import unexpected_errors

Progress = Callable[[int, int], None]
_QUICK_S = 1.0  # a shorter measurement is repeated during a run; a longer one when the run has ended


class QualityMeasurement:
    """The newest report on a data set, and the measurement in progress.

    Attributes:
        report: the newest report; None before the first.
        error: of the last measurement; it can be retried a few seconds later.
        read, total: progress of the measurement, in rows.
    """

    def __init__(self, measure: Callable[[Progress], QualityReport]) -> None:
        self.report: QualityReport | None = None
        self.error: FabulaError | None = None
        self.read, self.total = 0, 0
        self._measure = measure
        self._asked_for: str | None = None
        self._took_s = self._failed_at = 0.0
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()

    @property
    def measuring(self) -> bool:
        """True while a measurement is running."""
        return not self._idle.is_set()

    def fresh(self, fingerprint: str) -> bool:
        """True if the report is about the current rows."""
        return not self.measuring and self._asked_for == fingerprint

    def ask(self, fingerprint: str, *, calm: bool = False, again: bool = False) -> None:
        """Start a measurement of the rows of `fingerprint` if needed.

        Args:
            calm: a run is adding rows: a slow measurement is then started only if there is no report yet.
            again: measure in any case.
        """
        with self._lock:
            waits = calm and self._took_s >= _QUICK_S and self.report is not None
            failed = self.error is not None and time.monotonic() - self._failed_at >= unexpected_errors.FAILURE_KEPT_S
            up_to_date = self._asked_for == fingerprint and not failed
            if self.measuring or (not again and (waits or up_to_date)):
                return
            self._asked_for, self.error, self.read, self.total = fingerprint, None, 0, 0
            self._idle.clear()
            threading.Thread(target=self._work, name="quality", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Wait for the running measurement, at most this long."""
        self._idle.wait(seconds)

    def _work(self) -> None:
        started = time.perf_counter()
        try:
            self.report = self._measure(self._note)
        except Exception as error:
            self.error, self._failed_at = (
                unexpected_errors.as_fabula_error(error, "measuring quality"),
                time.monotonic(),
            )
        finally:
            self._took_s = time.perf_counter() - started
            self._idle.set()

    def _note(self, read: int, total: int) -> None:
        self.read, self.total = read, total
