"""Settings: every fault is a sentence, files and environment have an order, and nothing secret is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core import setting_fields
from core.errors import BadSettings
from core.settings import Settings

_ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| `([A-Z0-9_]+)` \| (.*?) \| (.*?) \|", re.MULTILINE)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FABULA_MODE", "staging", "`local` / `team`"),
        ("FABULA_LOG_FORMAT", "xml", "`text` / `json`"),
        ("FABULA_METRICS_TOKEN", "s3cret", "fewer than 16"),
        ("FABULA_METRICS_PORT", "70000", "from 1 to 65,535"),
        ("FABULA_METRICS_PORT", "http", "from 1 to 65,535"),
        ("FABULA_ALERT_WEBHOOK_URL", "hooks.example/s3cret", "`http://` or `https://`"),
        ("FABULA_ALERT_SMTP_URL", "mail.example:s3cret", "`smtp://` or `smtps://`"),
        ("FABULA_ALERT_EMAIL_TO", "ann@example.com,bob", "e-mail address"),
        ("FABULA_FIND_LOCAL_SERVERS", "perhaps", "`1` or `0`"),
        ("FABULA_ENGINE_URL", "engine:8010", "`http://` or `https://`"),
        ("FABULA_ENGINE_URL", "https://", "`http://` or `https://`"),
        ("DATABASE_URL", "mysql://ann:s3cret@db/fabula", "`postgresql://` or `sqlite:///`"),
        ("FABULA_SECRET_KEY", "s3cret", "fewer than 16"),
        ("FABULA_FILES_URL", "files", "absolute path of a folder"),
        ("FABULA_FILES_URL", "/srv/../etc", "absolute path of a folder"),
        ("FABULA_FILES_URL", "/", "absolute path of a folder"),
        ("FABULA_FILES_URL", "gs://bucket", "absolute path of a folder"),
        ("FABULA_FILES_URL", "s3://", "`s3://bucket`"),
        ("FABULA_FILES_URL", "s3://key:s3cret@bucket", "`s3://bucket`"),
        ("FABULA_FILES_URL", "s3://bucket/../other", "`s3://bucket`"),
        ("FABULA_FILES_URL", "s3://bucket/a?versionId=s3cret", "`s3://bucket`"),
        ("AWS_ENDPOINT_URL_S3", "minio:9000", "`http://` or `https://`"),
        ("HF_ENDPOINT", "mirror.example", "`http://` or `https://`"),
        ("FABULA_ADMIN_EMAIL", "ann", "one e-mail address"),
        ("FABULA_ADMIN_EMAIL", "ann@example", "one e-mail address"),
        ("FABULA_ADMIN_EMAIL", "a b@example.com", "one e-mail address"),
        ("FABULA_ADMIN_EMAIL", f"{'x' * 330}@example.com", "one e-mail address"),
        ("FABULA_ALLOWED_DOMAINS", "example", "list of e-mail domains"),
        ("FABULA_TRUSTED_EMAIL_ISSUERS", "http://id.example.com", "begin with `https://`"),
        ("FABULA_TRUSTED_EMAIL_ISSUERS", "id.example.com", "begin with `https://`"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_without_its_text(variable: str, value: str, told: str) -> None:
    with pytest.raises(BadSettings) as caught:
        setting_fields.checked({variable: value})
    [fault] = caught.value.faults
    assert fault.startswith(variable) and told in fault
    assert "s3cret" not in fault


def test_each_fault_has_its_sentence() -> None:
    with pytest.raises(BadSettings) as caught:
        Settings.from_env({"FABULA_MODE": "x", "FABULA_SECRET_KEY": "short"})
    assert [fault.split()[0] for fault in caught.value.faults] == ["FABULA_MODE", "FABULA_SECRET_KEY"]


@pytest.mark.parametrize(
    ("variable", "value", "attribute", "expected"),
    [
        ("FABULA_MODE", " Team ", "mode", "team"),
        ("FABULA_MODE", "", "mode", "local"),
        ("FABULA_ADMIN_EMAIL", " Ann@Example.COM ", "admin_email", "ann@example.com"),
        (
            "FABULA_ALLOWED_DOMAINS",
            "@Corp.example, \u212a.example",
            "allowed_domains",
            ("corp.example", "\u212a.example"),
        ),
        (
            "FABULA_TRUSTED_EMAIL_ISSUERS",
            "https://a/B, https://c",
            "trusted_email_issuers",
            ("https://a/B", "https://c"),
        ),
        ("FABULA_INTERNAL_SERVERS", "llm.example.com, fd00::/8", "internal_servers", ("llm.example.com", "fd00::/8")),
        ("FABULA_FILES_URL", "file:///srv/files/", "files_url", "/srv/files"),
        ("FABULA_FILES_URL", "s3://bucket/team/", "files_url", "s3://bucket/team"),
        ("FABULA_FIND_LOCAL_SERVERS", "OFF", "finds_local_servers", False),
        ("FABULA_FIND_LOCAL_SERVERS", "", "finds_local_servers", True),
        ("FABULA_ENGINE_URL", "http://engine:8010/", "engine_url", "http://engine:8010"),
        ("DATABASE_URL", "postgres://db/fabula", "database_url", "postgresql+psycopg://db/fabula"),
    ],
)
def test_what_a_variable_sets(variable: str, value: str, attribute: str, expected: object) -> None:
    assert getattr(Settings.from_env({variable: value}), attribute) == expected


def _files(folder: Path, monkeypatch: pytest.MonkeyPatch, *, env: str = "", secrets: str = "") -> None:
    for variable, name, text in (("FABULA_ENV_FILE", ".env", env), ("FABULA_SECRETS_FILE", "secrets.toml", secrets)):
        (folder / name).write_text(text, encoding="utf-8")
        monkeypatch.setenv(variable, str(folder / name))


def test_the_environment_comes_before_env_and_env_before_the_secrets_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(
        tmp_path,
        monkeypatch,
        env="FABULA_ENGINE_TOKEN=of-env\nOPENAI_API_KEY='of-env'  # key\nUNKNOWN=1\n",
        secrets='FABULA_ENGINE_TOKEN = "t"\nOPENAI_API_KEY = "t"\nTOGETHER_API_KEY = "of-secrets"\n[auth]\nx = "1"\n',
    )
    monkeypatch.setenv("FABULA_ENGINE_TOKEN", "of-environment")
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.setenv(name, "")  # empty counts as not set; restored after the test
    assert Settings.load().engine_token == "of-environment"
    assert (os.environ["OPENAI_API_KEY"], os.environ["TOGETHER_API_KEY"]) == ("of-env", "of-secrets")
    assert "UNKNOWN" not in os.environ


@pytest.mark.parametrize("file", ["env", "secrets"])
def test_a_file_that_cannot_be_read_is_named(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _files(tmp_path, monkeypatch, secrets="not toml: s3cret" if file == "secrets" else "")
    if file == "env":
        (tmp_path / ".env").write_bytes(b"OPENAI_API_KEY=\xff\xfes3cret")
    with pytest.raises(BadSettings, match=r"cannot be read") as caught:
        Settings.load()
    assert str(tmp_path) in caught.value.what and "s3cret" not in caught.value.what


def _printed(**environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core.settings"]
    return subprocess.run(command, cwd=_ROOT, env=os.environ | environ, capture_output=True, text=True, check=False)


def test_the_command_prints_what_is_in_force_and_masks_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _files(tmp_path, monkeypatch, env="OPENAI_API_KEY=sk-s3cret\n", secrets="FABULA_FIND_LOCAL_SERVERS = false\n")
    done = _printed(
        DATABASE_URL="postgresql://ann:s3cret@db/fabula",
        HTTPS_PROXY="http://s3cret@proxy:3128",
        FABULA_FIND_LOCAL_SERVERS="",
    )
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0 and "s3cret" not in done.stdout + done.stderr
    assert set(lines) == set(setting_fields.variables())
    assert f"********  ({tmp_path / '.env'})" in lines["OPENAI_API_KEY"]
    assert "postgresql://ann:********@db/fabula  (environment)" in lines["DATABASE_URL"]
    assert "http://********@proxy:3128" in lines["HTTPS_PROXY"]
    assert f" 0  ({tmp_path / 'secrets.toml'})" in lines["FABULA_FIND_LOCAL_SERVERS"]
    assert "local  (default)" in lines["FABULA_MODE"] and "not set  (default)" in lines["TOGETHER_API_KEY"]


def test_the_command_names_each_fault() -> None:
    done = _printed(FABULA_MODE="x", FABULA_SECRET_KEY="short")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 2


def test_every_setting_is_documented_with_its_type_and_default() -> None:
    documented = _ROW.findall((_ROOT / "docs" / "settings.md").read_text(encoding="utf-8"))
    assert documented == [(one.variable, one.type, one.default) for one in setting_fields.documents()]


def test_importing_the_settings_does_not_import_pydantic() -> None:
    """The engine's processes and the readers of files import `core` and never read settings."""
    code = "import core.settings, sys; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=False).returncode == 0
