"""The acting user. Every public action of core takes an `Actor`; local mode has exactly one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "editor", "admin"]


@dataclass(frozen=True, slots=True)
class Actor:
    """A user, or the worker acting on a user's behalf."""

    id: str
    name: str
    role: Role


LOCAL = Actor(id="local", name="You", role="admin")
