"""Runs a real PostgreSQL server for one test run: Debian's binaries, its own folder, a socket and usually no port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
def running(network: str = "") -> Iterator[str]:
    """Start a server, yield its SQLAlchemy URL, and stop it. Durable writes are disabled, because only speed matters
    here.

    Args:
        network: addresses that may also connect through a port, which is then in the URL.
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
        port = _listen(data, network) if network else ""
        start(home)
        try:
            yield f"postgresql://fabula@/postgres?host={home}{port}"
        finally:
            with suppress(PostgresAbsent):  # a failed test may have stopped it
                stop(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def start(home: Path) -> None:
    """Start the server in the folder `home`, the `host` of its URL."""
    options = f"-c unix_socket_directories='{home}' -c fsync=off"
    if not (home / "data/port").exists():
        options += " -c listen_addresses=''"
    control = (binaries() / "pg_ctl", "-D", home / "data", "-l", home / "log", "-w", "-t", "60", "-o", options)
    _run(_unprivileged(), *control, "start")


def stop(home: Path) -> None:
    """Stop the server immediately, like a crash."""
    _run(_unprivileged(), binaries() / "pg_ctl", "-D", home / "data", "-m", "immediate", "-w", "stop")


def _listen(data: Path, network: str) -> str:
    """Configure a free port for `network`; return it as a part of the URL."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    (data / "port").write_text(str(port))
    with (data / "postgresql.conf").open("a") as settings, (data / "pg_hba.conf").open("a") as access:
        settings.write(f"listen_addresses = '*'\nport = {port}\n")
        access.write(f"host all fabula {network} trust\n")
    return f"&port={port}"


def new_database(url: str, template: str = "template1") -> str:
    """Create a database on the server at `url` and return its URL; it is empty, or a copy of another one of that name,
    to which nothing may be connected.
    """
    name = f"t{new_id()}"
    admin = create_engine(Settings.from_env({"DATABASE_URL": url}).database_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
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
