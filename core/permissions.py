"""FABULA_HOME belongs to one user: directories have mode 0700, files 0600, under any umask."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger("fabula.permissions")
_DIRECTORY, _FILE = 0o700, 0o600
_UMASK = 0o077


def keep_private(home: Path) -> None:
    """Call at the start of a process that writes to `home`: what it creates from now on is private, and what is there
    becomes so.

    It sets the umask of the process, which its children inherit: libraries (SQLite, PyTorch) create files too. What
    cannot be changed, as on file systems without modes, is named in the log and otherwise ignored.
    """
    os.umask(_UMASK)
    if home in (Path(home.anchor), Path.home()):
        _log.warning("%s is not a folder of its own: what it holds keeps its permissions.", home)
        return
    failed = list(_repaired(home))
    if failed:
        _log.warning(
            "%s files and folders in %s can be read by others: their permissions cannot be changed. The first: %s",
            len(failed),
            home,
            failed[0],
        )


def private_opener(path: str, flags: int) -> int:
    """For `open(…, opener=private_opener)`: a file that is created is for this user only."""
    return os.open(path, flags, _FILE)


def _repaired(home: Path) -> Iterator[str]:
    """Take the permissions of others from `home` and all in it; what could not be changed, with the reason.

    From the top, so that nobody else can put a symbolic link in the place of what is looked at.
    """
    if not home.is_dir():  # the first start makes it, private by the umask
        return
    yield from _changed(str(home), home, None)
    failures: list[str] = []
    walk = os.fwalk(home, onerror=lambda exc: failures.append(f"{exc.filename}: {exc.strerror}"), follow_symlinks=False)
    for folder, directories, files, descriptor in walk:
        for name in (*directories, *files):
            yield from _changed(name, Path(folder) / name, descriptor)
    yield from failures


def _changed(name: str, path: Path, folder: int | None) -> Iterator[str]:
    """Change the mode of `path` (`name` in the open `folder`) if it must be; the reason where that fails."""
    target = str(path) if folder is None else name
    try:
        mode = os.stat(target, dir_fd=folder, follow_symlinks=folder is None).st_mode
        if stat.S_ISLNK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            return
        wanted = _DIRECTORY if stat.S_ISDIR(mode) else _FILE | (mode & stat.S_IXUSR)
        if stat.S_IMODE(mode) == wanted:
            return
        os.chmod(target, wanted, dir_fd=folder)
        if stat.S_IMODE(os.stat(target, dir_fd=folder).st_mode) != wanted:  # FAT and some network drives only pretend
            yield f"{path}: the file system has no such permissions"
    except FileNotFoundError:
        return  # deleted meanwhile
    except OSError as exc:
        yield f"{path}: {exc.strerror}"
