"""Reads everything about fine-tuning from an account: jobs, events, checkpoints, files, models, usage. Never writes.

Objects are returned as the API sent them, because an archive also keeps fields that Fabula does not use. Calls are made
once; the caller retries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import httpx2

from core.errors import Unavailable
from core.message import msg, with_cause
from core.providers.connection import Connection
from core.providers.errors import not_an_api_answer
from core.providers.schemas import Provider

Object = Mapping[str, Any]
_PAGE = 100  # OpenAI's maximum for jobs, events and checkpoints
_FILES = 1000
_DAYS = 31  # the maximum number of daily buckets in a page of usage
_BLOCK = 1 << 16  # bytes per read of a file's content
_TIMEOUT = httpx2.Timeout(connect=5.0, read=60.0, write=60.0, pool=60.0)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. `next`: what to pass for the next page; None: this is the last one."""

    objects: tuple[Object, ...]
    next: str | None


class Source(Protocol):
    """What an archive is read from: an account, or a folder with the same things in it.

    Attributes:
        company: whose price list has the last days of its models: openai, azure, together.
        usage_note: why its usage is unknown; None if an admin key can read it.
    """

    @property
    def company(self) -> str: ...

    @property
    def usage_note(self) -> str | None: ...

    def jobs(self, after: str | None = None, limit: int = ...) -> Page: ...

    def events(self, job_id: str, after: str | None = None) -> Page: ...

    def checkpoints(self, job_id: str, after: str | None = None) -> Page: ...

    def files(self, after: str | None = None) -> Page: ...

    def models(self) -> tuple[Object, ...]: ...

    def completions(self, model: str, after: str | None = None) -> Page: ...

    def completion_messages(self, completion_id: str, after: str | None = None) -> Page: ...

    def download(self, file_id: str, write: Callable[[bytes], object], start: int = 0) -> None: ...

    def close(self) -> None: ...


class AccountReader(Connection):
    """The read-only client of one account, with one GET per call."""

    company = "openai"

    @property
    def usage_note(self) -> str | None:
        """None: an admin key can read the usage."""
        return None

    def __init__(self, provider: Provider, transport: httpx2.BaseTransport | None = None) -> None:
        super().__init__(provider, transport=transport, timeout=_TIMEOUT)

    def jobs(self, after: str | None = None, limit: int = _PAGE) -> Page:
        """A page of fine-tuning jobs, newest first."""
        return self._page("/fine_tuning/jobs", after, limit)

    def events(self, job_id: str, after: str | None = None) -> Page:
        """A page of a job's events, newest first."""
        return self._page(f"/fine_tuning/jobs/{quote(job_id, safe='')}/events", after, _PAGE)

    def checkpoints(self, job_id: str, after: str | None = None) -> Page:
        """A page of a job's checkpoints, newest first."""
        return self._page(f"/fine_tuning/jobs/{quote(job_id, safe='')}/checkpoints", after, _PAGE)

    def files(self, after: str | None = None) -> Page:
        """A page of the account's files, newest first."""
        return self._page("/files", after, _FILES)

    def models(self) -> tuple[Object, ...]:
        """All models of the account; some have a `shutdown_date`."""
        return self._page("/models", None, None).objects

    def usage(self, start_s: int, page: str | None = None) -> Page:
        """A page of daily usage by model since `start_s` (Unix seconds). Needs an admin key."""
        params: dict[str, Any] = {"start_time": start_s, "bucket_width": "1d", "group_by": ["model"], "limit": _DAYS}
        if page is not None:
            params["page"] = page
        answer = self._get("/organization/usage/completions", params)
        following = answer.get("next_page") if answer.get("has_more") else None
        return Page(self._objects(answer), following if isinstance(following, str) and following else None)

    def completions(self, model: str, after: str | None = None) -> Page:
        """A page of a model's stored chat completions, newest first."""
        params = {"model": model, "limit": _PAGE, "order": "desc", **({} if after is None else {"after": after})}
        return self._page_of(self._get("/chat/completions", params))

    def completion_messages(self, completion_id: str, after: str | None = None) -> Page:
        """A page of the messages that a stored chat completion answered, in their order."""
        params = {"limit": _PAGE, "order": "asc", **({} if after is None else {"after": after})}
        return self._page_of(self._get(f"/chat/completions/{quote(completion_id, safe='')}/messages", params))

    def download(self, file_id: str, write: Callable[[bytes], object], start: int = 0) -> None:
        """Pass a file's content to `write`, block by block.

        Args:
            start: the first byte that is wanted. Servers that don't support ranges send the earlier ones too, which
                are dropped here.

        Raises:
            NotThere: the file is deleted or has expired.
            ProviderError: the endpoint refused, or the content is incomplete.
        """

        def call() -> None:
            wanted = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"} if start else {}
            with self._sdk().files.with_streaming_response.content(file_id, extra_headers=wanted) as response:
                is_rest = response.status_code == 206 and response.headers.get("content-range", "").startswith(
                    f"bytes {start}-"
                )
                left = 0 if is_rest else start
                try:
                    for block in response.iter_bytes(_BLOCK):
                        if rest := block[left:]:
                            write(rest)
                        left = max(0, left - len(block))
                except httpx2.HTTPError as exc:
                    name = self.provider.name
                    raise Unavailable(
                        with_cause(
                            msg("The connection to {name} ended in the middle of a file.", name=name), "interrupted"
                        ),
                        msg("Fabula fetches it again automatically."),
                    ) from exc

        self._once(call)

    def _page(self, path: str, after: str | None, limit: int | None) -> Page:
        params: dict[str, Any] = {} if limit is None else {"limit": limit}
        if after is not None:
            params["after"] = after
        return self._page_of(self._get(path, params))

    def _page_of(self, answer: Object) -> Page:
        objects = self._objects(answer)
        last = objects[-1].get("id") if objects else None
        return Page(objects, str(last) if answer.get("has_more") and last else None)

    def _get(self, path: str, params: Mapping[str, Any]) -> Object:
        def call() -> Object:
            response = self._sdk().get(path, cast_to=httpx2.Response, options={"params": dict(params)})
            answer = response.json()
            if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
                raise not_an_api_answer(self.provider)
            return answer

        return self._once(call)

    def _objects(self, answer: Object) -> tuple[Object, ...]:
        return tuple(one for one in answer["data"] if isinstance(one, dict))


def all_pages(read: Callable[[str | None], Page]) -> Iterator[Page]:
    """Every page of a list; `read` gets what the page before named as the next."""
    after: str | None = None
    while True:
        page = read(after)
        yield page
        if page.next is None or page.next == after:
            return
        after = page.next
