"""The declared actions of core, found by introspection."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import core
from core.actor import required_role

_SKIPPED = ("core.engine", "core.db.migrations", "core.locale.__main__")  # torch, Alembic's own context, a script


def declared_actions() -> dict[str, Callable[..., Any]]:
    """Every declared function and constructor of core, by its dotted name."""
    found: dict[str, Callable[..., Any]] = {}
    for info in pkgutil.walk_packages(core.__path__, "core."):
        if not info.name.startswith(_SKIPPED):
            for value in vars(importlib.import_module(info.name)).values():
                action = value.__init__ if inspect.isclass(value) else value
                if inspect.isfunction(action) and required_role(action) is not None:
                    found[f"{action.__module__}.{action.__qualname__}"] = action
    return found
