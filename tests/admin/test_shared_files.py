"""Commands for shared files: a backup has them wherever they are, and a restore puts them where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.admin.__main__ import main
from core.settings import Settings
from core.shared_files import NAMES, PRESENTER_PROMPTS, PRICES, storage
from tests.support.installations import files, fill


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for shared files."""
    if request.param == "bucket":
        return f"s3://{request.getfixturevalue('bucket')}/team"
    (tmp_path / "mount").mkdir()
    return str(tmp_path / "mount")


def _environ(home: Path, url: str | None) -> dict[str, str]:
    return {"FABULA_HOME": str(home), "FABULA_FILES_URL": url or ""}


def _content(home: Path, url: str | None) -> dict[str, bytes]:
    place = storage(Settings.from_env(_environ(home, url)))
    return {name: found.load() for name in NAMES if (found := place.find(name)) is not None}


@pytest.mark.parametrize("target", ["home", "shared"])
def test_a_backup_has_the_shared_files_and_restores_them_to_their_place(
    url: str, target: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = _environ(home, url)
    fill(Settings.from_env(environ)).close()  # writes an unused prices.csv into the home folder
    place = storage(Settings.from_env(environ))
    place.write_bytes(PRICES, b"the shared prices")
    place.write_bytes(PRESENTER_PROMPTS, b"one\n")
    assert main(["backup", str(tmp_path / "b.tar.gz")], environ) == 0
    assert f"The shared files in {url} are in it." in capsys.readouterr().out

    shared = None if target == "home" else f"{url}/restored"
    if shared is not None and not shared.startswith("s3://"):
        Path(shared).mkdir()
    elsewhere = tmp_path / "elsewhere"
    main(["restore", str(tmp_path / "b.tar.gz")], _environ(elsewhere, shared))
    assert "Restored into" in capsys.readouterr().out
    assert _content(elsewhere, shared) == {PRICES: b"the shared prices", PRESENTER_PROMPTS: b"one\n"}
    assert (PRICES in files(elsewhere)) == (target == "home")


def test_a_restore_does_not_replace_shared_files(
    url: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(Settings.from_env(_environ(home, None))).close()
    assert main(["backup", str(tmp_path / "b.tar.gz")], _environ(home, None)) == 0
    elsewhere = _environ(tmp_path / "elsewhere", url)
    storage(Settings.from_env(elsewhere)).write_bytes(PRICES, b"in use")
    assert main(["restore", str(tmp_path / "b.tar.gz")], elsewhere) == 1
    assert "There are shared files" in capsys.readouterr().err
    assert _content(tmp_path / "elsewhere", url) == {PRICES: b"in use"}


def test_files_left_in_the_home_folder_are_found_and_moved(
    url: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = _environ(home, url)
    fill(Settings.from_env(environ)).close()
    main(["check"], environ)
    told = capsys.readouterr().out
    assert f"ok      The shared files in {url} can be read and written." in told
    assert "PROBLEM Not used, because FABULA_FILES_URL is set: prices.csv" in told and "share-files" in told
    assert main(["share-files"], environ) == 0
    assert f"Moved to {url}: prices.csv." in capsys.readouterr().out
    assert PRICES in _content(home, url) and PRICES not in files(home)
    main(["check"], environ)
    assert "Not used" not in capsys.readouterr().out
    storage(Settings.from_env(_environ(home, None))).write_bytes(PRICES, b"outdated")
    assert main(["share-files"], environ) == 1
    assert "already has prices.csv" in capsys.readouterr().out
    assert main(["share-files"], _environ(home, None)) == 1
    assert "Set FABULA_FILES_URL first." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "share-files"])
def test_a_place_that_cannot_be_used_is_a_problem(
    command: str, bucket: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = _environ(home, f"s3://{bucket}-missing")
    fill(Settings.from_env(environ)).close()
    assert main([command], environ) == 1
    told = "".join(capsys.readouterr())
    assert f"The bucket {bucket}-missing does not exist." in told
    assert PRICES in files(home)


def test_a_backup_without_the_shared_files_is_not_made(
    bucket: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = _environ(home, f"s3://{bucket}-missing")
    fill(Settings.from_env(environ)).close()
    assert main(["backup", str(tmp_path / "b.tar.gz")], environ) == 1
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.glob("*.tar.gz*")) == []
