"""The settings about where trainers run. Pure, except for a look at the shared folder.

The engine and the studio's list of settings read them.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

LAUNCHER: Final = "FABULA_LAUNCHER"
"""Environment variable: where trainers run: `local`, or the address of a Ray cluster."""
LOCAL: Final = "local"
STORAGE: Final = "FABULA_RAY_STORAGE"
"""Environment variable: the folder, or `s3://…`, that the engine and every node of the cluster share."""
WORKERS: Final = "FABULA_RAY_WORKERS"
"""Environment variable: processes (and GPUs, if the cluster has any) that train one job together."""
CPUS: Final = "FABULA_RAY_CPUS"
"""Environment variable: processors of each of these processes."""
SHARD: Final = "FABULA_RAY_SHARD"
"""Environment variable: whether a base model's layers are split over these processes; see `Shard`."""
Shard = Literal["auto", "always", "never"]
"""`auto`: if the base does not fit whole into one of them."""
NODE_GB: Final = "FABULA_RAY_NODE_GB"
"""Environment variable: gigabytes that copies of base models from a bucket take on a node's disk, at most."""
MOST_GB: Final = 1_000_000
"""The highest number for NODE_GB."""
MOST: Final = 4096
"""The highest number for WORKERS and CPUS."""
DASHBOARD_PORT: Final = 8265
"""The port of Ray's dashboard and Jobs API, unless the address has one."""
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_CLIENT_PORT = 10001  # of Ray Client, which has no Jobs API


def is_local(environ: Mapping[str, str]) -> bool:
    """Whether trainers run on this machine."""
    return dashboard_address(environ.get(LAUNCHER, "")) is None


def is_bucket(storage: str) -> bool:
    """Whether STORAGE is a bucket, and not a folder."""
    return storage.strip().startswith("s3://")


def ray_is_installed() -> bool:
    """Whether the packages of requirements-ray.txt are there."""
    return importlib.util.find_spec("ray") is not None


def dashboard_address(setting: str) -> str | None:
    """The address of a cluster's Jobs API; None for this machine.

    `ray://HOST[:PORT]` means `http://HOST:PORT`, with the dashboard's port if there is none.

    Raises:
        ValueError: neither `local` nor an address, or the port is Ray Client's.
    """
    setting = setting.strip().rstrip("/")
    if setting.lower() in ("", LOCAL):
        return None
    parts = urlsplit(setting)
    if parts.scheme not in ("ray", "http", "https") or not parts.hostname:
        raise ValueError(
            f"{LAUNCHER}: {setting!r} is neither 'local' nor the address of a Ray cluster, such as ray://head-node"
        )
    if parts.port == _CLIENT_PORT:
        raise ValueError(
            f"{LAUNCHER}: {setting!r}: port {_CLIENT_PORT} is Ray Client's; use the dashboard's, {DASHBOARD_PORT}"
        )
    if parts.scheme != "ray":
        return setting
    return f"http://{parts.netloc}" if parts.port else f"http://{parts.netloc}:{DASHBOARD_PORT}"


def check(environ: Mapping[str, str]) -> None:
    """Check all of them.

    Raises:
        ValueError: a setting is malformed or missing.
    """
    if is_local(environ):
        return
    storage = environ.get(STORAGE, "").strip()
    if is_bucket(storage):
        if not _BUCKET.fullmatch(storage.rstrip("/")):
            raise ValueError(f"{STORAGE} must be s3://bucket or s3://bucket/folder, without a key or a query")
        if importlib.util.find_spec("s3fs") is None:
            raise ValueError(f"{STORAGE}: S3 needs a package: {sys.executable} -m pip install -r requirements-s3.txt")
    elif not Path(storage).is_absolute() or not Path(storage).is_dir():
        raise ValueError(
            f"{STORAGE}: {storage!r} is not an existing folder. {LAUNCHER} needs the absolute path of a folder that "
            "this machine and every node of the cluster share, or the address of a bucket, such as s3://bucket/folder."
        )
    for setting in (WORKERS, CPUS):
        count(environ, setting)
    shard(environ)
    node_gb(environ)


def count(environ: Mapping[str, str], setting: str) -> int:
    """A setting that is a whole number from 1 to MOST; 1 if it is not set. Raises ValueError."""
    return _whole_number(environ, setting, MOST) or 1


def node_gb(environ: Mapping[str, str]) -> int | None:
    """NODE_GB, from 1 to MOST_GB; None if it is not set. Raises ValueError."""
    return _whole_number(environ, NODE_GB, MOST_GB)


def _whole_number(environ: Mapping[str, str], setting: str, most: int) -> int | None:
    raw = environ.get(setting, "").strip()
    if not raw:
        return None
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 9 and 1 <= int(raw) <= most):
        raise ValueError(f"{setting}: {raw!r} is not a whole number from 1 to {most}")
    return int(raw)


def shard(environ: Mapping[str, str]) -> Shard:
    """Whether a base model's layers are split over the processes of a job. Raises ValueError."""
    raw = environ.get(SHARD, "").strip().lower() or "auto"
    for name in get_args(Shard):
        if raw == name:
            return name  # type: ignore[no-any-return]  # one of Shard's
    raise ValueError(f"{SHARD}: {raw!r} is none of {', '.join(get_args(Shard))}")
