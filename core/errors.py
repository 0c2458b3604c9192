"""Exception hierarchy. Every error carries a user-facing sentence on what happened and one on what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

from core.message import Message, msg, sentences, with_cause


class FabulaError(Exception):
    """Base class of all errors that a page may show.

    Attributes:
        cause: cause code (`core.failures.Cause`) for errors of this class whose message has no code of its own; None if
            the class has no code.
        what: what happened, as one sentence; stored with the code of its cause.
        next_step: what the user can do about it, as one sentence.
    """

    cause: ClassVar[str | None] = None

    def __init__(self, what: str, next_step: str = "") -> None:
        has_cause = isinstance(what, Message) and what.cause is not None
        self.what = what if has_cause or self.cause is None else with_cause(what, self.cause)
        super().__init__(self.what)
        self.next_step = next_step


class NotFound(FabulaError, LookupError):
    """The requested object does not exist, or no longer does."""


class ProviderRemoved(NotFound):
    """The provider was removed on the settings page. Its id is never used again, so waiting for it is pointless."""

    cause = "provider_removed"


class ProviderChanged(FabulaError):
    """The provider was set to another account, which does not have what was submitted to the earlier one."""

    cause = "provider_changed"


class ChangedMeanwhile(FabulaError):
    """Someone else has changed it after the person had seen it. Nothing was changed."""


class NewerDatabase(FabulaError):
    """A newer version of Fabula has written the database; this one must not write to it."""

    cause = "setup"


class NotAllowed(FabulaError):
    """The person's role does not allow this action; nothing was changed. See `core.actor.requires`."""

    cause = "not_allowed"


class SignedOut(NotAllowed):
    """The person's sign-in has ended, or they are disabled; nothing was changed."""


class RoleChanged(NotAllowed):
    """The person's role has changed since their tab was rendered."""


class SignInRefused(NotAllowed):
    """Someone who has signed in at a provider may not use this studio."""


class BadRecipe(FabulaError, ValueError):
    """A recipe that cannot be run: empty grid, unknown column in the template, …"""


class BadFile(FabulaError, ValueError):
    """A file that cannot be read; `what` names line and column where possible."""

    cause = "bad_file"


class BadTrainingFile(BadFile):
    """Training data that a provider would refuse; `what` names the line."""


class StorageFull(FabulaError, OSError):
    """The disk is full or the database unavailable: no paid requests are sent until it is writable again."""

    cause = "storage"


class DatabaseLost(StorageFull):
    """The database was deleted, replaced or damaged, its server is unreachable, or it became read-only.

    A job cannot just wait, as it does when the disk is full: it ends, and is resumed once the database is back.
    """


class ProviderError(FabulaError):
    """An endpoint returned an error; subclasses distinguish the kinds.

    Attributes:
        may_be_billed: the request may have been processed and billed although no result arrived. Its cost is unknown,
            and the maximum possible cost is counted. False: the endpoint rejected the request or never received it.
    """

    may_be_billed = True


class Transient(ProviderError):
    """The same request may succeed later; see `core.providers.retry`.

    `retry_after_s`: the delay that the server asked for, in seconds; None if the server gave no delay.
    """

    def __init__(self, what: str, next_step: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(what, next_step)
        self.retry_after_s = retry_after_s


class RateLimited(Transient):
    """429: the server asks for fewer requests."""

    cause = "rate_limit"

    may_be_billed = False


class Unavailable(Transient):
    """Connection refused, timeout, 408, 409, 5xx."""

    cause = "unreachable"

    def __init__(
        self, what: str, next_step: str = "", retry_after_s: float | None = None, *, may_be_billed: bool = True
    ) -> None:
        super().__init__(what, next_step, retry_after_s)
        self.may_be_billed = may_be_billed


class ServerError(Unavailable):
    """5xx, or a web page instead of an API response: the server failed, or there is no API at this address."""

    cause = "server_error"


class Unreadable(Unavailable):
    """A success status with an unusable body: truncated, not JSON, or JSON without text, usage or error."""

    cause = "unreadable"


class Refused(ProviderError):
    """401, 403, insufficient_quota: work stops and keeps its results; the user fixes the account and resumes."""

    cause = "bad_key"

    may_be_billed = False


class Misconfigured(Refused):
    """An address, key, certificate or proxy cannot work as configured; handled like `Refused`."""

    cause = "setup"


class WrongAddress(Misconfigured):
    """A server answers at the address, but it is not the API, or the server redirects requests elsewhere."""


class BadRequest(ProviderError, ValueError):
    """400, 404, 422: this request fails; others may succeed.

    `refused_parameters`: names of the parameters that the endpoint says this model does not support. `may_be_billed`:
    the endpoint processed the prompt before it refused (Azure's content filter).
    """

    cause = "bad_request"

    def __init__(
        self,
        what: str,
        next_step: str = "",
        refused_parameters: frozenset[str] = frozenset(),
        *,
        may_be_billed: bool = False,
    ) -> None:
        super().__init__(what, next_step)
        self.refused_parameters = refused_parameters
        self.may_be_billed = may_be_billed


class PromptTooLong(BadRequest):
    """The prompt is longer than the model's context length."""

    cause = "too_long"


class NotThere(BadRequest, NotFound):
    """404 for a file, job or page: the address is correct, but the object does not exist."""


class ModelNotFound(BadRequest, LookupError):
    """The endpoint does not have this model, or no longer does."""

    cause = "model_not_found"


class StreamCut(ProviderError):
    """A stream broke off early; the caller keeps the text received so far."""

    cause = "interrupted"

    may_be_billed = True


class Cancelled(ProviderError):
    """The user or the worker cancelled a request before its response arrived."""

    def __init__(self, what: str = "", next_step: str = "", *, may_be_billed: bool = True) -> None:
        default = msg("The request was stopped."), msg("Send it again if you still need the answer.")
        super().__init__(what or default[0], next_step or default[1])
        self.may_be_billed = may_be_billed


class EngineMissing(FabulaError, RuntimeError):
    """The engine's packages are not installed."""

    cause = "engine_missing"


class OverBudget(FabulaError):
    """A request would exceed a budget, or could because its price is unknown. It was not sent.

    Attributes:
        scope: which budget (`core.pricing.budget.Scope`); None: the price is unknown.
        missing_usd: how much more than its rest the request can cost, in US dollars; None: the price is unknown.
    """

    cause = "shared_budget"

    def __init__(
        self, what: str, next_step: str = "", *, scope: str | None = None, missing_usd: Decimal | None = None
    ) -> None:
        super().__init__(what, next_step)
        self.scope, self.missing_usd = scope, missing_usd


class BadSettings(FabulaError, ValueError):
    """Settings that cannot be used.

    Attributes:
        faults: one sentence per fault.
    """

    cause = "setup"

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(sentences(*faults), msg("Correct the settings, then start Fabula again."))
