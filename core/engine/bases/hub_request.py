"""What the engine needs to know about hubs before a download starts: model names and the download's environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

from core.engine.formats.unusable_model import UnusableModel
from core.message import msg
from core.process_environment import hub_environment

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_ADDRESS = re.compile(r"https?://[^/]+/(?:models/)?([^/?#]+/[^/?#]+)")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a download needs and other child processes do not get: proxies, mirror, token."""
    fixed = {"HF_HUB_DISABLE_TELEMETRY": "1"}
    return {"HF_HUB_OFFLINE": "0", **hub_environment(environ), **fixed}


def repo_name(raw: str) -> str:
    """`owner/name` from a name or an address of its page.

    Raises:
        UnusableModel: it is neither.
    """
    text = raw.strip().rstrip("/")
    address = _ADDRESS.match(text)
    name = address.group(1) if address else text
    if not _REPO.fullmatch(name):
        raise UnusableModel(
            "bad_name",
            msg("{name} is not the name of a model.", name=repr(raw[:80])),
            msg("Write owner and name, for example Qwen/Qwen3-0.6B."),
        )
    return name
