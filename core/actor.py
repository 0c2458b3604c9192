"""Who acts. Every action of core takes an Actor; in local mode there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "editor", "admin"]


@dataclass(frozen=True, slots=True)
class Actor:
    """A person (or the worker acting for one)."""

    id: str
    name: str
    role: Role


LOCAL = Actor(id="local", name="You", role="admin")
