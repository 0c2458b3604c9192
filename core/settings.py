"""Settings: read once, then passed on as a value. `python -m core.settings` prints what is in force.

`core.setting_fields` lists them all. Each is an environment variable; it can also be set in `.env` or in the secrets
file, from which `Settings.load` puts it into the environment of this process when it starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NoReturn

from core.errors import BadSettings

# The variables that `Settings` consists of; all other settings are read where they are used.
_READ = (
    *("FABULA_HOME", "DATABASE_URL", "FABULA_ENGINE_URL", "FABULA_ENGINE_TOKEN", "FABULA_ENGINE_CA_FILE"),
    *("FABULA_SECRET_KEY", "FABULA_FILES_URL"),
    *("FABULA_FIND_LOCAL_SERVERS", "FABULA_MODE", "FABULA_ADMIN_EMAIL", "FABULA_ALLOWED_DOMAINS"),
    *("FABULA_TRUSTED_EMAIL_ISSUERS", "FABULA_INTERNAL_SERVERS"),
    *("FABULA_GUEST_PORT", "FABULA_GUEST_URL"),
    *("FABULA_TRUSTED_PROXY", "FABULA_METRICS_TOKEN", "FABULA_METRICS_PORT", "FABULA_LOG_FORMAT"),
    *("FABULA_ALERT_WEBHOOK_URL", "FABULA_ALERT_WEBHOOK_SHAPE", "FABULA_ALERT_SMTP_URL", "FABULA_ALERT_EMAIL_TO"),
    *("FABULA_ALERT_EMAIL_FROM", "FABULA_ALERT_LANGUAGE"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Machine-specific settings.

    Attributes:
        home: folder that holds all local state (database, files, engine home).
        database_url: SQLAlchemy URL of the ledger; SQLite in `home` unless `DATABASE_URL` is set.
        files_url: where the shared files are (`core.shared_files`): a folder or `s3://…`; None: in `home`.
        engine_url: base URL of an external engine (without `/v1`); None if the app starts its own engine.
        engine_token: bearer token of the engine; if None, one is generated and stored in `home`.
        engine_ca_file: certificate authorities that are trusted for that engine in addition to the system's, or None.
        secret_key: encrypts the providers' keys in the database; if None, a key file in `home` does.
        finds_local_servers: whether the settings page looks for model servers on this machine; never in team mode.
        mode: `local`: one person on this machine; `team`: people sign in.
        admin_email: the person who becomes an admin at a team's first sign-in, or None.
        allowed_domains: e-mail domains whose people need no invitation.
        trusted_email_issuers: sign-in issuers whose e-mail addresses count as verified without `email_verified`.
        internal_servers: host names and networks inside the server's own network that a team's providers may lead to.
        trusted_proxy: the proxy whose headers name the signed-in person; None if no headers are trusted.
        guest_port: port on which the pages of guests are served, and nothing else, or None.
        guest_url: the address under which phones reach the pages of guests; None if it follows from the port, or from
            the address of the presenter's page.
        metrics_token: bearer token of `/metrics`; None if there is no such page.
        metrics_port: port on which a separate worker serves its metrics, or None.
        log_format: `text` or `json`.
        alert_webhook, alert_webhook_shape: an incoming webhook, and its shape; None: alerts are not posted, and the
            shape follows from its host.
        alert_smtp_url, alert_email_to, alert_email_from: a mail server, recipients and sender; None: no e-mail, and the
            first recipient is the sender.
        alert_language: language of alerts.
    """

    home: Path
    database_url: str = field(repr=False)  # may contain a password
    engine_url: str | None
    engine_token: str | None = field(repr=False)
    files_url: str | None = None
    engine_ca_file: Path | None = None
    secret_key: str | None = field(default=None, repr=False)
    finds_local_servers: bool = True
    mode: Literal["local", "team"] = "local"
    admin_email: str | None = None
    allowed_domains: tuple[str, ...] = ()
    trusted_email_issuers: tuple[str, ...] = ()
    internal_servers: tuple[str, ...] = ()
    trusted_proxy: str | None = None
    guest_port: int | None = None
    guest_url: str | None = None
    metrics_token: str | None = field(default=None, repr=False)
    metrics_port: int | None = None
    log_format: str = "text"
    alert_webhook: str | None = field(default=None, repr=False)
    alert_webhook_shape: Literal["slack", "teams", "feishu", "json"] | None = None
    alert_smtp_url: str | None = field(default=None, repr=False)
    alert_email_to: tuple[str, ...] = ()
    alert_email_from: str | None = None
    alert_language: str = "en"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings from environment variables; the same values are parsed only once.

        Raises:
            BadSettings: a value cannot be used.
        """
        env = os.environ if environ is None else environ
        return _from_values(tuple(env.get(name, "") for name in _READ), os.getcwd(), os.environ.get("HOME"))

    @classmethod
    def load(cls) -> Settings:
        """The settings of a starting process: `.env` and the secrets file are first loaded into its environment.

        A variable of the environment overrides the same one in a file.

        Raises:
            BadSettings: a file or a value cannot be used, including values of settings that are used later.
        """
        from core import setting_fields

        for name, (text, _path) in setting_fields.from_files(os.environ).items():
            if not os.environ.get(name):
                os.environ[name] = text
        setting_fields.checked(os.environ)
        return cls.from_env()

    @classmethod
    def load_or_exit(cls) -> Settings:
        """Like `load`, but if there are faults, print a sentence for each and end the process."""
        try:
            return cls.load()
        except BadSettings as exc:
            exit_with(exc)

    @property
    def engine_home(self) -> Path:
        """Home folder of the engine that the app starts itself."""
        return self.home / "engine"


@lru_cache(maxsize=64)
def _from_values(values: tuple[str, ...], _folder: str, _user_home: str | None) -> Settings:
    """The settings from the text of `_READ`. A relative home depends on the current folder, `~` on the user's home."""
    from core import setting_fields

    fields = setting_fields.checked(dict(zip(_READ, values, strict=True)))
    home = fields.home.expanduser().resolve()
    return Settings(
        home=home,
        database_url=_sqlalchemy_url(fields.database_url or f"sqlite:///{home / 'fabula.db'}"),
        engine_url=fields.engine_url,
        engine_token=fields.engine_token.get_secret_value() if fields.engine_token else None,
        files_url=fields.files_url,
        engine_ca_file=fields.engine_ca_file,
        secret_key=fields.secret_key.get_secret_value() if fields.secret_key else None,
        finds_local_servers=fields.finds_local_servers and fields.mode != "team",
        mode=fields.mode,
        admin_email=fields.admin_email,
        allowed_domains=_items(fields.allowed_domains),
        trusted_email_issuers=_items(fields.trusted_email_issuers),
        internal_servers=_items(fields.internal_servers),
        trusted_proxy=fields.trusted_proxy,
        guest_port=fields.guest_port,
        guest_url=fields.guest_url,
        metrics_token=fields.metrics_token.get_secret_value() if fields.metrics_token else None,
        metrics_port=fields.metrics_port,
        log_format=fields.log_format,
        alert_webhook=fields.alert_webhook.get_secret_value() if fields.alert_webhook else None,
        alert_webhook_shape=fields.alert_webhook_shape,
        alert_smtp_url=fields.alert_smtp_url.get_secret_value() if fields.alert_smtp_url else None,
        alert_email_to=tuple(filter(None, (fields.alert_email_to or "").split(","))),
        alert_email_from=fields.alert_email_from,
        alert_language=fields.alert_language,
    )


def _items(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (text or "").split(",")))


def _sqlalchemy_url(url: str) -> str:
    """Add the driver that Fabula ships to common Postgres URLs."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def exit_with(error: BadSettings) -> NoReturn:
    """Print a sentence for each fault, and end the process that is starting."""
    sys.exit("\n".join(["Fabula can't start.", *error.faults, error.next_step]))


def main() -> None:
    """Print every setting in force, with its source; secrets are masked. Exits with 1 if one cannot be used."""
    from core import setting_fields

    try:
        found = setting_fields.in_force(os.environ, setting_fields.from_files(os.environ))
    except BadSettings as exc:
        sys.exit("\n".join(exc.faults))
    width = max(len(one.variable) for one in found)
    for one in found:
        print(f"{one.variable:<{width}}  {one.value or 'not set'}  ({one.source or 'default'})")


if __name__ == "__main__":
    main()
