"""Reads fine-tuning jobs, files, models and usage as an account's API sends them. Tolerant and pure.

A field of another type than documented counts as missing, so that one odd object never hides the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from core.providers.schemas import shutdown_day
from core.sanitize import storable

Object = Mapping[str, Any]
METHODS: Final = ("supervised", "dpo", "reinforcement")
"""The documented training methods. Any other one is kept under its own name."""
UNKNOWN: Final = "unknown"
NO_JOB: Final = "none"
"""The status where a folder has only the data of a job."""
_NAME, _SHORT, _MODEL = 300, 40, 200  # column sizes, in characters


def job_values(raw: Object) -> dict[str, Any]:
    """The columns of `ArchivedTune` for a job object, without `raw`."""
    return {
        "model": text(raw.get("fine_tuned_model"), _MODEL),
        "base_model": text(raw.get("model"), _MODEL) or UNKNOWN,
        "method": method_of(raw),
        "status": text(raw.get("status"), 30) or UNKNOWN,
        "trained_tokens": count(raw.get("trained_tokens")),
        "training_file": text(raw.get("training_file"), _MODEL),
        "validation_file": text(raw.get("validation_file"), _MODEL),
        "result_files": texts(raw.get("result_files")),
        "created_at": moment(raw.get("created_at")),
        "finished_at": moment(raw.get("finished_at")),
    }


def method_of(raw: Object) -> str:
    """The training method; jobs from before methods existed are supervised."""
    method = raw.get("method")
    if method is None:
        return "supervised"
    return (text(method.get("type"), _SHORT) if isinstance(method, Mapping) else None) or UNKNOWN


def hyperparameters(raw: Object) -> dict[str, Any]:
    """The hyperparameters of a job, also those that only its method has; {} if there are none."""
    method = raw.get("method")
    options = method.get(method_of(raw)) if isinstance(method, Mapping) else None
    found = options.get("hyperparameters") if isinstance(options, Mapping) else None
    found = found or raw.get("hyperparameters")
    return dict(found) if isinstance(found, Mapping) else {}


def error_of(raw: Object) -> str | None:
    """The message of a failed job; None if there is none."""
    error = raw.get("error")
    return text(error.get("message"), 2_000) if isinstance(error, Mapping) else None


def file_values(raw: Object) -> dict[str, Any]:
    """The columns of `ArchivedFile` for a file object."""
    return {
        "purpose": text(raw.get("purpose"), _SHORT) or UNKNOWN,
        "filename": text(raw.get("filename"), _NAME) or str(raw.get("id"))[:_NAME],
        "size": count(raw.get("bytes")),
        "created_at": moment(raw.get("created_at")),
    }


def shutdown_dates(models: Iterable[Object]) -> dict[str, date]:
    """The announced shutdown date by model, where there is one."""
    dates = {str(one.get("id")): shutdown_day(one.get("shutdown_date")) for one in models}
    return {name: day for name, day in dates.items() if day is not None}


@dataclass(frozen=True, slots=True)
class DailyUse:
    """The use of one model on one day.

    Attributes:
        cached_tokens: part of `input_tokens` that was read from the cache.
    """

    model: str
    day: datetime
    calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int


def daily_use(bucket: Object) -> list[DailyUse]:
    """The use by model in one bucket of the usage API."""
    day = moment(bucket.get("start_time"))
    found = []
    results = bucket.get("results")
    for one in results if day is not None and isinstance(results, list) else ():
        if not isinstance(one, Mapping) or not (model := text(one.get("model"), _MODEL)):
            continue
        names = ("num_model_requests", "input_tokens", "output_tokens", "input_cached_tokens")
        found.append(DailyUse(model, day, *(count(one.get(name)) or 0 for name in names)))  # type: ignore[arg-type]  # not None here
    return found


def text(value: object, limit: int) -> str | None:
    """A non-empty text, shortened to the size of its column; None for anything else."""
    return storable(value)[:limit] or None if isinstance(value, str) else None


def texts(value: object) -> list[str]:
    """The non-empty texts of a list; [] for anything else."""
    return [one for one in value if isinstance(one, str) and one] if isinstance(value, list | tuple) else []


def count(value: object) -> int | None:
    """A number that is not negative; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def moment(value: object) -> datetime | None:
    """A time given in Unix seconds, or as an ISO 8601 text (UTC if it names no zone); None for anything else."""
    if isinstance(value, str):
        value = _unix_seconds(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 4e9:
        return None
    return datetime.fromtimestamp(value, UTC)


def _unix_seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
