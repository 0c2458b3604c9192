"""`shared`: one result of a function for all visitors. Nothing of one visitor goes through it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Hashable
from dataclasses import astuple
from functools import update_wrapper
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import streamlit as st

from core.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

_RefreshMode = Literal["foreground", "background"]


class SharedFunction(Generic[P, T]):
    """A function whose results are shared by all visitors of a studio; made by `shared`."""

    def __init__(
        self,
        function: Callable[P, T],
        key: Callable[..., Hashable] | None,
        ttl: float | None,
        max_entries: int,
        refresh_mode: _RefreshMode,
    ) -> None:
        def compute(studio: str, key: Hashable, _args: Any, _kwargs: Any) -> T:
            result: T = function(*_args, **_kwargs)
            return result

        own = inspect.signature(compute)
        update_wrapper(compute, function)  # Streamlit tells caches apart by module, qualified name and source code,
        compute.__signature__ = own  # type: ignore[attr-defined]  # and reads from the signature what to hash
        update_wrapper(self, function)
        self._key = key
        self._cached: Any = st.cache_resource(
            ttl=ttl, max_entries=max_entries, refresh_mode=refresh_mode, show_spinner=False
        )(compute)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._cached(*self._arguments(args, kwargs))
        return result

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Forget the result for these arguments; without any, all results."""
        if args or kwargs:
            self._cached.clear(*self._arguments(args, kwargs))
        else:
            self._cached.clear()

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        key = (args, tuple(sorted(kwargs.items()))) if self._key is None else self._key(*args, **kwargs)
        return where(), key, args, kwargs


def shared(
    *,
    max_entries: int,
    ttl: float | None = None,
    key: Callable[..., Hashable] | None = None,
    refresh_mode: _RefreshMode = "foreground",
) -> Callable[[Callable[P, T]], SharedFunction[P, T]]:
    """Share the results of a function between all visitors. A result is one object for all: it must not be changed.

    Each studio (database, home folder) has results of its own. The function finds the studio in
    the environment.

    Args:
        max_entries: results that are kept; the oldest is dropped.
        ttl: seconds until a result is computed again; None: never.
        key: what tells results apart, computed from the arguments at every call: an id and a time of change instead of
            a large object, the language of the page. None: the arguments themselves.
        refresh_mode: `background`: after `ttl` the old result is returned while a new one is computed.
    """

    def decorate(function: Callable[P, T]) -> SharedFunction[P, T]:
        return SharedFunction(function, key, ttl, max_entries, refresh_mode)

    return decorate


def settings() -> Settings:
    """The settings from the environment."""
    return Settings.from_env()


def where() -> str:
    """A cache key that differs between studios (tests have many): a hash, so that no secret is in it."""
    return hashlib.sha256(repr(astuple(settings())).encode()).hexdigest()
