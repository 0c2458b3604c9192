"""One family of errors. Each says what happened and what to do next, in a sentence for people."""

from __future__ import annotations

from core.message import msg


class FabulaError(Exception):
    """Base of every error that a page may show.

    Attributes:
        what: what happened, one sentence.
        next_step: what the person can do about it, one sentence.
    """

    def __init__(self, what: str, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step


class NotFound(FabulaError, LookupError):
    """The thing asked for is not (or no longer) there."""


class BadRecipe(FabulaError, ValueError):
    """A recipe that cannot be run: empty grid, unknown column in the template, …"""


class BadFile(FabulaError, ValueError):
    """A file that cannot be read; `what` names line and column where it can."""


class BadTrainingFile(BadFile):
    """Training data that a provider would refuse; `what` names the line."""


class StorageFull(FabulaError, OSError):
    """Disk full or database gone: nothing more is bought until it is back."""


class DatabaseLost(StorageFull):
    """The database was deleted, replaced or damaged, its server is away, or it may not be written any more.

    Unlike a full disk, waiting inside a piece of work does not help: the work ends, and is taken up again once the
    database is back.
    """


class ProviderError(FabulaError):
    """An endpoint answered with an error. Subclasses say which kind.

    Attributes:
        may_be_billed: the request may have been carried out, and then it is paid for: nothing was heard of its end. Its
            cost is unknown, and counts with the most that it can be. False: the endpoint refused it, or never had it.
    """

    may_be_billed = True


class RateLimited(ProviderError):
    """429: wait and retry. `retry_after_s` is what the server asked for, if it did."""

    may_be_billed = False

    def __init__(self, what: str, next_step: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(what, next_step)
        self.retry_after_s = retry_after_s


class Unavailable(ProviderError):
    """Connection refused, timeout, 408, 409, 5xx: wait and retry. `retry_after_s` as in `RateLimited`."""

    def __init__(
        self, what: str, next_step: str = "", retry_after_s: float | None = None, *, may_be_billed: bool = True
    ) -> None:
        super().__init__(what, next_step)
        self.retry_after_s = retry_after_s
        self.may_be_billed = may_be_billed


class ServerError(Unavailable):
    """5xx, or a web page in place of an answer: the server says that it failed, or is not the one that was meant."""


class Unreadable(Unavailable):
    """A success status with an answer that cannot be read: cut off, no JSON, or JSON without text, usage or error."""


class Refused(ProviderError):
    """insufficient_quota, 401, 403: stop, keep everything, fix the account, resume."""

    may_be_billed = False


class Misconfigured(Refused):
    """An address, key, certificate or proxy that cannot work as it is set up: stop, keep everything, put it right."""


class BadRequest(ProviderError, ValueError):
    """400, 404, 422: this request fails, others may work.

    `refused_parameters` are those that the endpoint says this model does not take.
    """

    def __init__(self, what: str, next_step: str = "", refused_parameters: frozenset[str] = frozenset()) -> None:
        super().__init__(what, next_step)
        self.refused_parameters = refused_parameters

    may_be_billed = False


class PromptTooLong(BadRequest):
    """The prompt has more tokens than the model can read at once."""


class NotThere(BadRequest, NotFound):
    """404 for a file, a job or a page: the address is right, the thing is gone."""


class ModelNotFound(BadRequest, LookupError):
    """The model does not exist at that endpoint (any more)."""


class StreamCut(ProviderError):
    """A stream ended before its end; what had arrived is kept by the caller."""

    may_be_billed = True


class Cancelled(ProviderError):
    """A person, or the worker, ended a request before its answer was there."""

    def __init__(self, what: str = "", next_step: str = "", *, may_be_billed: bool = True) -> None:
        stopped = msg("The request was stopped."), msg("Send it again if you still need the answer.")
        super().__init__(what or stopped[0], next_step or stopped[1])
        self.may_be_billed = may_be_billed


class EngineMissing(FabulaError, RuntimeError):
    """The engine's packages are not installed."""


class OverBudget(FabulaError):
    """What is about to be bought would go over a budget, or may: its price is unknown. Nothing was sent."""
