"""Runs a real PostgreSQL server for one test run: Debian's binaries, its own folder, a socket and no port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine

from core.db.store import new_id
from core.settings import Settings
from tests.support.waiting import WAIT_LIMIT_S


class PostgresAbsent(Exception):
    """The reason why no server can be started here."""


def binaries() -> Path:
    """Folder with the newest installed server's binaries.

    Raises:
        PostgresAbsent: no server is installed, or it could only be run as root (which PostgreSQL refuses).
    """
    found = sorted(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")),
        key=lambda folder: float(folder.parent.name),
    )
    if not found:
        raise PostgresAbsent("no PostgreSQL in /usr/lib/postgresql (apt-get install postgresql)")
    return found[-1]


@contextmanager
def running() -> Iterator[str]:
    """Start a server, yield its SQLAlchemy URL, and stop it. Durable writes are disabled, because only speed matters
    here.
    """
    folder = binaries()
    user = _unprivileged()
    # not pytest's folder, because another user must be able to access it
    home = Path(tempfile.mkdtemp(prefix="fabula-pg-"))
    try:
        if user:
            shutil.chown(home, user)
        data = home / "data"
        _run(user, folder / "initdb", "-D", data, "-U", "fabula", "-A", "trust", "-E", "UTF8", "--no-sync")
        start(home)
        try:
            yield f"postgresql://fabula@/postgres?host={home}"
        finally:
            stop(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def start(home: Path) -> None:
    """Start the server in the folder `home`; return the `host` of its URL."""
    options = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off"
    control = (binaries() / "pg_ctl", "-D", home / "data", "-l", home / "log", "-w", "-t", "60", "-o", options)
    _run(_unprivileged(), *control, "start")


def stop(home: Path) -> None:
    """Stop the server immediately, like a crash."""
    _run(_unprivileged(), binaries() / "pg_ctl", "-D", home / "data", "-m", "immediate", "-w", "stop")


def new_database(url: str) -> str:
    """Create an empty database on the server at `url`; return its URL."""
    name = f"t{new_id()}"
    admin = create_engine(Settings.from_env({"DATABASE_URL": url}).database_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    admin.dispose()
    return url.replace("/postgres?", f"/{name}?")


def _unprivileged() -> str | None:
    """The user for running the server if this process is root; None to run it as the current user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise PostgresAbsent("running as root, and there is no user postgres or nobody to run the server as")


def _run(user: str | None, *argv: object) -> None:
    done = subprocess.run(
        [str(one) for one in argv],
        user=user,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # not a pipe, which the server would inherit and hold open
        stderr=subprocess.DEVNULL,
        timeout=WAIT_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise PostgresAbsent(f"{argv[0]} ended with {done.returncode}")
