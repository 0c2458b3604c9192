"""Parses requests for models on a hub before a download starts: model names and the download's environment.

Only URLs of the chosen hub and of its configured mirror are accepted as model names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from core.engine.bases.record import Source
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg
from core.process_environment import hub_environment

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*")
_MAX_REVISION = 200  # characters
_SCHEME = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Hub:
    """The URLs of one hub.

    Attributes:
        hosts: hosts whose URLs refer to its models, in addition to the endpoint set in the variable `setting`.
        default: the revision used when a request does not specify one.
    """

    name: str
    hosts: tuple[str, ...]
    setting: str
    default: str


_HUBS: Mapping[Source, _Hub] = {
    "huggingface": _Hub("Hugging Face", ("huggingface.co", "hf.co"), "HF_ENDPOINT", "main"),
    "modelscope": _Hub(
        "ModelScope", ("www.modelscope.cn", "modelscope.cn"), "MODELSCOPE_ENDPOINT", "master"
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on a hub: `owner/name`, and a branch, tag or commit; "" means the newest one."""

    repo: str
    revision: str


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that only download processes get: proxies, mirror, token."""
    fixed = {"HF_HUB_DISABLE_TELEMETRY": "1"}
    return {"HF_HUB_OFFLINE": "0", **hub_environment(environ), **fixed}


def hub_model(source: Source, raw: str, revision: str, environ: Mapping[str, str]) -> HubModel:
    """Find the model that a request refers to, by name or by the URL of its page on the hub.

    Args:
        raw: `owner/name` or a URL; the URL of a revision's page also sets the revision.
        revision: as requested; "" if none was given.
        environ: sets the hub's endpoint if it is not the public one.

    Raises:
        UnusableModel: `raw` is neither, the URL belongs to another server, or the revision is not a valid name.
    """
    hub, text = _HUBS[source], raw.strip().rstrip("/")
    name, addressed = _from_address(hub, text, environ) if _is_address(hub, text, environ) else (text, "")
    if not _REPO.fullmatch(name):
        raise UnusableModel(
            "bad_name",
            msg("{name} is not the name of a model.", name=repr(raw[:80])),
            msg("Enter owner and name, for example Qwen/Qwen3-0.6B."),
        )
    asked, addressed = (_checked_revision(hub, one.strip()) for one in (revision, addressed))
    if asked and addressed and asked != addressed:
        raise UnusableModel(
            "bad_revision",
            msg("The address names the revision {one}, and the request {other}.", one=addressed, other=asked),
            msg("Enter owner and name without the rest of the address."),
        )
    return HubModel(name, asked or addressed)


def default_revision(source: Source) -> str:
    """The hub's name for its newest revision."""
    return _HUBS[source].default


def _bases(hub: _Hub, environ: Mapping[str, str]) -> list[str]:
    """The prefixes of URLs of the hub's pages, without the scheme."""
    endpoint = _SCHEME.sub("", environ.get(hub.setting, "").strip().rstrip("/"))
    return [f"{one.lower()}/" for one in (endpoint, *hub.hosts) if one]


def _is_address(hub: _Hub, text: str, environ: Mapping[str, str]) -> bool:
    return bool(_SCHEME.match(text)) or text.lower().startswith(tuple(_bases(hub, environ)))


def _from_address(hub: _Hub, text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Extract name and revision from the URL of one of the hub's pages."""
    address = _SCHEME.sub("", text)
    base = next((one for one in _bases(hub, environ) if address.lower().startswith(one)), None)
    if base is None:
        raise UnusableModel(
            "other_hub",
            msg("{address} is not an address of {hub}.", address=text[:200], hub=hub.name),
            msg("Choose the hub of that address, or write owner and name. {setting} names a mirror.",
                setting=hub.setting),
        )  # fmt: skip
    path = re.split("[?#]", address[len(base) :])[0].removeprefix("models/")
    owner, name, kind, revision = (path.split("/", 4) + [""] * 4)[:4]
    return f"{owner}/{name}", unquote(revision) if kind in ("tree", "blob", "resolve", "commit") else ""


def _checked_revision(hub: _Hub, revision: str) -> str:
    """Validate the revision and return it; "" for the hub's default."""
    if revision and (len(revision) > _MAX_REVISION or not _REVISION.fullmatch(revision)):
        raise UnusableModel(
            "bad_revision",
            msg("{revision} is not the name of a revision.", revision=repr(revision[:80])),
            msg("Write a branch, a tag or a commit, or leave the revision out for the newest one."),
        )
    return "" if revision == hub.default else revision
