"""Makes FABULA_HOME private to its user: directories have mode 0700 and files 0600, under any umask."""

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
    """Make `home` private: existing files are changed, and files created later by this process are private too.

    Call it at the start of a process that writes to `home`. It sets the umask, which child processes inherit, because
    libraries (SQLite, PyTorch) create files too. Modes that cannot be changed, for example on file systems without
    permissions, are logged and otherwise ignored.
    """
    os.umask(_UMASK)
    if home in (Path(home.anchor), Path.home()):
        _log.warning("%s is not a dedicated folder: the files in it keep their permissions.", home)
        return
    failed = list(_restrict_tree(home))
    if failed:
        _log.warning(
            "%s files and folders in %s may be readable by other users: cannot change their permissions. The first: %s",
            len(failed),
            home,
            failed[0],
        )


def private_opener(path: str, flags: int) -> int:
    """For `open(…, opener=private_opener)`: a new file is readable by this user only."""
    return os.open(path, flags, _FILE)


def _restrict_tree(home: Path) -> Iterator[str]:
    """Restrict `home` and everything in it to its user; yields each path that could not be changed, with the reason.

    Works top down and through open directories, so that no other user can swap in a symbolic link meanwhile.
    """
    try:
        if not home.is_dir():  # created at the first start, private through the umask
            return
    except PermissionError:  # a folder above it cannot be entered: opening the database says so
        return
    yield from _restrict(str(home), home, None)
    failures: list[str] = []
    walk = os.fwalk(home, onerror=lambda exc: failures.append(f"{exc.filename}: {exc.strerror}"), follow_symlinks=False)
    for folder, directories, files, descriptor in walk:
        for name in (*directories, *files):
            yield from _restrict(name, Path(folder) / name, descriptor)
    yield from failures


def _restrict(name: str, path: Path, folder: int | None) -> Iterator[str]:
    """Restrict the mode of `path` (`name` in the open `folder`) if needed; yields the reason if that fails."""
    target = str(path) if folder is None else name
    try:
        mode = os.stat(target, dir_fd=folder, follow_symlinks=folder is None).st_mode
        if stat.S_ISLNK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            return
        wanted = _DIRECTORY if stat.S_ISDIR(mode) else _FILE | (mode & stat.S_IXUSR)
        if stat.S_IMODE(mode) == wanted:
            return
        os.chmod(target, wanted, dir_fd=folder)
        if stat.S_IMODE(os.stat(target, dir_fd=folder).st_mode) != wanted:  # FAT and some network drives ignore chmod
            yield f"{path}: the file system has no such permissions"
    except FileNotFoundError:
        return  # deleted meanwhile
    except OSError as exc:
        yield f"{path}: {exc.strerror}"
