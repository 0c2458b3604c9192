"""Every setting: its variable, type, default and check, and the files in which it can be set.

This is the only list. `docs/settings.md` documents it (a test compares the two), and `core.settings` reads it.
pydantic takes a third of a second to import, so `core.settings` imports this module only when it reads settings.
"""

from __future__ import annotations

import importlib.util
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from core import address_rules
from core.email_addresses import is_email, is_email_domain, lower_email
from core.engine import cors_origins, job_rules, launcher_settings, serve_settings
from core.errors import BadSettings
from core.message import Message, msg

ENV_FILE, SECRETS_FILE = "FABULA_ENV_FILE", "FABULA_SECRETS_FILE"
MIN_SECRET_CHARS = 16
_MASK = "********"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_DATABASES = re.compile(r"(sqlite|postgres|postgresql)(\+\w+)?://")


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(msg("It must be an address that begins with `http://` or `https://`."))
    return value.rstrip("/")


def _database(value: str) -> str:
    if not _DATABASES.match(value):
        raise ValueError(msg("It must begin with `postgresql://` or `sqlite:///`."))
    return value


def _ray_storage(value: str) -> str:
    return _files(value.strip()) if launcher_settings.is_bucket(value) else value


def _files(value: str) -> str:
    if value.startswith("s3://"):
        if not _BUCKET.fullmatch(value.rstrip("/")):
            raise ValueError(msg("It must be `s3://bucket` or `s3://bucket/folder`, without a key or a query."))
        if importlib.util.find_spec("s3fs") is None:
            raise ValueError(msg("S3 needs a package: `pip install -r requirements-s3.txt`."))
        return value.rstrip("/")
    path = PurePosixPath(value.removeprefix("file://"))
    if not path.is_absolute() or ".." in path.parts or len(path.parts) == 1:
        raise ValueError(msg("It must be the absolute path of a folder, or begin with `s3://`."))
    return str(path)


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < MIN_SECRET_CHARS:
        raise ValueError(
            msg("It has fewer than {limit} characters. Set a longer one, for example 32 random characters.",
                limit=MIN_SECRET_CHARS)
        )  # fmt: skip
    return value


def _whole_number(low: int, high: int) -> BeforeValidator:
    def check(value: object) -> int:
        text = str(value).strip()
        if not (text.isascii() and text.isdecimal() and low <= int(text[:9]) <= high):
            raise ValueError(msg("It must be a whole number from {low} to {high}.", low=f"{low:,}", high=f"{high:,}"))
        return int(text)

    return BeforeValidator(check)


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _email(value: str) -> str:
    email = lower_email(value)
    if not (is_email(email) and is_email_domain(email.partition("@")[2])):
        raise ValueError(msg("It must be one e-mail address."))
    return email


def _domains(value: str) -> str:
    domains = [lower_email(one).removeprefix("@") for one in _listed(value)]
    if not all(map(is_email_domain, domains)):
        raise ValueError(msg("It must be a list of e-mail domains with commas between, for example `example.com`."))
    return ",".join(domains)


def _emails(value: str) -> str:
    return ",".join(_email(one) for one in value.split(",") if one.strip())


def _webhook(value: SecretStr) -> SecretStr:
    _address(value.get_secret_value())
    return value


def _mail_server(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError(msg("It must be an address that begins with `smtp://` or `smtps://`."))
    return value


def _issuers(value: str) -> str:
    return ",".join(map(_issuer, _listed(value)))


def _issuer(value: str) -> str:
    """An issuer identifier, which is compared letter by letter (OpenID Connect Core 2)."""
    parts = urlsplit(value)
    if not parts.hostname or (parts.scheme != "https" and parts.hostname not in _LOOPBACK):
        raise ValueError(msg("It must be a list of issuers that begin with `https://`, with commas between."))
    return value


def _ca_file(value: Path) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except OSError:  # also ssl.SSLError: not PEM, or a private key only
        raise ValueError(msg("It must be the path of a file with CA certificates in PEM format.")) from None
    return value


def _internal_servers(value: str) -> str:
    entries = _listed(value)
    if not all(map(address_rules.is_entry, entries)):
        raise ValueError(
            msg("It must be a list of host names, IP addresses and networks, such as `llm.example.com,10.1.2.0/24`.")
        )
    return ",".join(entries)


def _origins(value: str) -> str:
    try:
        return ",".join(sorted(cors_origins.read({cors_origins.SETTING: value})))
    except ValueError as exc:
        raise ValueError(
            msg("It must be a list of origins (scheme, host and port) such as `http://localhost:5173`, or `*`.")
        ) from exc


def _launcher(value: str) -> str:
    try:
        launcher_settings.dashboard_address(value)
    except ValueError as exc:
        raise ValueError(
            msg("It must be `local` or the address of a Ray cluster's dashboard, such as `ray://head-node`.")
        ) from exc
    return value.strip()


def _serve(value: str) -> str:
    try:
        serve_settings.server_url(value)
    except ValueError as exc:
        raise ValueError(
            msg("It must be `llama`, `vllm` or the address of a vLLM server, such as `http://127.0.0.1:8000`.")
        ) from exc
    return value.strip()


def _listed(value: str) -> list[str]:
    return [one.strip() for one in value.split(",") if one.strip()]


Address = Annotated[str, AfterValidator(_address)]
CaFile = Annotated[Path, AfterValidator(_ca_file)]
Database = Annotated[str, AfterValidator(_database)]
Context = Annotated[int, _whole_number(*job_rules.CONTEXT_RANGE)]
Domains = Annotated[str, AfterValidator(_domains)]
Email = Annotated[str, AfterValidator(_email)]
Emails = Annotated[str, AfterValidator(_emails)]
Files = Annotated[str, AfterValidator(_files)]
InternalServers = Annotated[str, AfterValidator(_internal_servers)]
Issuers = Annotated[str, AfterValidator(_issuers)]
LongSecret = Annotated[SecretStr, AfterValidator(_long_enough)]
Launcher = Annotated[str, AfterValidator(_launcher)]
Origins = Annotated[str, AfterValidator(_origins)]
MailServer = Annotated[SecretStr, AfterValidator(_mail_server)]
Mode = Annotated[Literal["local", "team"], BeforeValidator(_lower)]
Priority = Annotated[job_rules.TrainerPriority, BeforeValidator(_lower)]
Device = Annotated[job_rules.TrainingDevice, BeforeValidator(_lower)]
Gigabytes = Annotated[int, _whole_number(1, launcher_settings.MOST_GB)]
Port = Annotated[int, _whole_number(1, 65_535)]
Processes = Annotated[int, _whole_number(1, launcher_settings.MOST)]
RayStorage = Annotated[str, AfterValidator(_ray_storage)]
Serve = Annotated[str, AfterValidator(_serve)]
Sharding = Annotated[launcher_settings.Shard, BeforeValidator(_lower)]
Switch = Annotated[bool, BeforeValidator(_lower)]
Webhook = Annotated[SecretStr, AfterValidator(_webhook)]


def _setting(variable: str, shown_type: str, default: object = None) -> Any:
    """A field with its variable, and its type as the documentation names it."""
    return Field(default, validation_alias=variable, title=shown_type)


class SettingFields(BaseSettings):
    """The settings by variable, with type and default. None means not set."""

    model_config = SettingsConfigDict(extra="ignore", case_sensitive=True, frozen=True)

    mode: Mode = _setting("FABULA_MODE", "`local` or `team`", "local")
    admin_email: Email | None = _setting("FABULA_ADMIN_EMAIL", "e-mail address")
    allowed_domains: Domains | None = _setting("FABULA_ALLOWED_DOMAINS", "list")
    trusted_email_issuers: Issuers | None = _setting("FABULA_TRUSTED_EMAIL_ISSUERS", "list")
    internal_servers: InternalServers | None = _setting("FABULA_INTERNAL_SERVERS", "list")
    trusted_proxy: str | None = _setting("FABULA_TRUSTED_PROXY", "text")
    home: Path = _setting("FABULA_HOME", "path", Path(".fabula"))
    database_url: Database | None = _setting("DATABASE_URL", "database address")
    files_url: Files | None = _setting("FABULA_FILES_URL", "folder or `s3://…`")
    secret_key: LongSecret | None = _setting("FABULA_SECRET_KEY", "secret")
    finds_local_servers: Switch = _setting("FABULA_FIND_LOCAL_SERVERS", "`1` or `0`", True)
    env_file: Path = _setting(ENV_FILE, "path", Path(".env"))
    secrets_file: Path = _setting(SECRETS_FILE, "path", Path(".streamlit/secrets.toml"))

    engine_url: Address | None = _setting("FABULA_ENGINE_URL", "address")
    engine_token: SecretStr | None = _setting("FABULA_ENGINE_TOKEN", "secret")
    engine_ca_file: CaFile | None = _setting("FABULA_ENGINE_CA_FILE", "path")
    engine_models: str | None = _setting("FABULA_ENGINE_MODELS", "list")
    engine_base_folders: str | None = _setting("FABULA_ENGINE_BASE_FOLDERS", "list")
    results_base64: Switch = _setting("FABULA_RESULTS_BASE64", "`1` or `0`", False)
    engine_cors_origins: Origins | None = _setting(cors_origins.SETTING, "list")
    engine_context: Context = _setting(job_rules.CONTEXT_SETTING, "number", job_rules.CONTEXT)
    trainer_priority: Priority = _setting(
        job_rules.TRAINER_PRIORITY_SETTING, "`idle` or `normal`", job_rules.TRAINER_PRIORITY
    )
    training_device: Device = _setting(
        job_rules.TRAINING_DEVICE_SETTING, "`auto`, `cpu`, `cuda` or `mps`", job_rules.TRAINING_DEVICE
    )
    launcher: Launcher = _setting(launcher_settings.LAUNCHER, "`local` or address", launcher_settings.LOCAL)
    ray_storage: RayStorage | None = _setting(launcher_settings.STORAGE, "folder or `s3://…`")
    ray_workers: Processes = _setting(launcher_settings.WORKERS, "number", 1)
    ray_cpus: Processes = _setting(launcher_settings.CPUS, "number", 1)
    ray_shard: Sharding = _setting(launcher_settings.SHARD, "`auto`, `always` or `never`", "auto")
    ray_node_gb: Gigabytes | None = _setting(launcher_settings.NODE_GB, "number")
    engine_serve: Serve = _setting(serve_settings.SERVE, "`llama`, `vllm` or address", serve_settings.LLAMA)
    vllm_args: str | None = _setting(serve_settings.ARGUMENTS, "text")
    vllm_key_file: Path | None = _setting(serve_settings.KEY_FILE, "path")

    guest_port: Port | None = _setting("FABULA_GUEST_PORT", "port")
    guest_url: Address | None = _setting("FABULA_GUEST_URL", "address")
    metrics_token: LongSecret | None = _setting("FABULA_METRICS_TOKEN", "secret")
    metrics_port: Port | None = _setting("FABULA_METRICS_PORT", "port")
    log_format: Literal["text", "json"] = _setting("FABULA_LOG_FORMAT", "`text` or `json`", "text")
    alert_webhook: Webhook | None = _setting("FABULA_ALERT_WEBHOOK_URL", "secret")
    alert_webhook_shape: Literal["slack", "teams", "feishu", "json"] | None = _setting(
        "FABULA_ALERT_WEBHOOK_SHAPE", "`slack`, `teams`, `feishu` or `json`"
    )
    alert_smtp_url: MailServer | None = _setting("FABULA_ALERT_SMTP_URL", "secret")
    alert_email_to: Emails | None = _setting("FABULA_ALERT_EMAIL_TO", "list")
    alert_email_from: Email | None = _setting("FABULA_ALERT_EMAIL_FROM", "e-mail address")
    alert_language: Literal["en", "zh_CN"] = _setting("FABULA_ALERT_LANGUAGE", "`en` or `zh_CN`", "en")

    openai_api_key: SecretStr | None = _setting("OPENAI_API_KEY", "secret")
    openai_admin_key: SecretStr | None = _setting("OPENAI_ADMIN_KEY", "secret")
    openai_base_url: str | None = _setting("OPENAI_BASE_URL", "address")
    azure_openai_api_key: SecretStr | None = _setting("AZURE_OPENAI_API_KEY", "secret")
    azure_openai_endpoint: str | None = _setting("AZURE_OPENAI_ENDPOINT", "address")
    together_api_key: SecretStr | None = _setting("TOGETHER_API_KEY", "secret")
    together_base_url: str | None = _setting("TOGETHER_BASE_URL", "address")

    hf_token: SecretStr | None = _setting("HF_TOKEN", "secret")
    hf_endpoint: Address | None = _setting("HF_ENDPOINT", "address")
    modelscope_endpoint: Address | None = _setting("MODELSCOPE_ENDPOINT", "address")
    modelscope_api_token: SecretStr | None = _setting("MODELSCOPE_API_TOKEN", "secret")
    aws_access_key_id: SecretStr | None = _setting("AWS_ACCESS_KEY_ID", "secret")
    aws_secret_access_key: SecretStr | None = _setting("AWS_SECRET_ACCESS_KEY", "secret")
    aws_session_token: SecretStr | None = _setting("AWS_SESSION_TOKEN", "secret")
    aws_region: str | None = _setting("AWS_DEFAULT_REGION", "text")
    aws_endpoint: Address | None = _setting("AWS_ENDPOINT_URL_S3", "address")
    https_proxy: str | None = _setting("HTTPS_PROXY", "address")
    wandb_api_key: SecretStr | None = _setting("WANDB_API_KEY", "secret")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the values passed by `checked`, which has already merged the sources."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """One setting for display: its value, masked if it is secret, and where it was set (empty if nowhere)."""

    variable: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class SettingDocument:
    """One setting for the documentation."""

    variable: str
    type: str
    default: str


def variables() -> tuple[str, ...]:
    """The environment variables of all settings."""
    return tuple(str(field.validation_alias) for field in SettingFields.model_fields.values())


def documents() -> Iterator[SettingDocument]:
    """Variable, type and default of every setting, as `docs/settings.md` shows them."""
    for field in SettingFields.model_fields.values():
        shown = int(field.default) if isinstance(field.default, bool) else field.default
        default = "" if shown is None else f"`{shown}`"
        yield SettingDocument(str(field.validation_alias), field.title or "", default)


def checked(values: Mapping[str, str]) -> SettingFields:
    """The settings from the text of variables; an empty text counts as not set.

    Raises:
        BadSettings: a value cannot be used; contains one sentence for each such value.
    """
    known = variables()
    try:
        return SettingFields(**{name: values[name] for name in known if values.get(name)})  # type: ignore[arg-type]
    except ValidationError as exc:
        raise BadSettings([_sentence(dict(error)) for error in exc.errors()]) from None  # its text contains the values


def from_files(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The settings in `.env` and the secrets file: text and file by variable. `.env` takes precedence.

    Raises:
        BadSettings: a file cannot be read.
    """
    places = checked({name: environ.get(name, "") for name in (ENV_FILE, SECRETS_FILE)})
    found: dict[str, tuple[str, str]] = {}
    for path, read in ((places.secrets_file, _read_toml), (places.env_file, _read_env)):
        if path.is_file():
            try:
                values = read(path)
            except (OSError, ValueError) as exc:  # tomllib's and Unicode errors are ValueErrors; they quote no value
                sentence = msg("The file {path} cannot be read: {reason}.", path=path, reason=type(exc).__name__)
                raise BadSettings([sentence]) from exc
            found |= {name: (_text(values[name]), str(path)) for name in variables() if values.get(name) is not None}
    return found


def _read_toml(path: Path) -> Mapping[str, Any]:
    return TomlConfigSettingsSource(SettingFields, path)()


def _read_env(path: Path) -> Mapping[str, Any]:
    return DotEnvSettingsSource(SettingFields, path)()


def in_force(environ: Mapping[str, str], files: Mapping[str, tuple[str, str]]) -> list[SettingInForce]:
    """Every setting in force, with secrets masked."""
    sources = {name: (environ[name], "environment") for name in variables() if environ.get(name)}
    merged = dict(files) | sources
    fields = checked({name: text for name, (text, _) in merged.items()})
    return [
        SettingInForce(variable, _shown(getattr(fields, name)), merged.get(variable, ("", ""))[1])
        for name, variable in zip(SettingFields.model_fields, variables(), strict=True)
    ]


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return _MASK
    text = _text(value)
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if "@" not in parts.netloc:
        return text
    user, _, host = parts.netloc.rpartition("@")  # mask the password, or a proxy token that takes the place of the name
    name = user.partition(":")[0] + ":" if ":" in user else ""
    return urlunsplit(parts._replace(netloc=f"{name}{_MASK}@{host}"))


def _sentence(error: Mapping[str, object]) -> Message:
    """One fault of a setting: its variable and what it must be. The value is not shown: it may be a secret."""
    [name, *_] = error["loc"] if isinstance(error["loc"], tuple) else ("",)
    context = error.get("ctx")
    reason = context.get("error") if isinstance(context, dict) else None
    if isinstance(reason, ValueError) and isinstance(reason.args[0], Message):
        must: str = reason.args[0]
    elif error["type"] == "literal_error" and isinstance(context, dict):
        choices = re.findall(r"'([^']+)'", str(context.get("expected")))
        must = msg("It must be {choices}.", choices=" / ".join(f"`{one}`" for one in choices))
    else:
        must = msg("It must be `1` or `0`.")
    return msg("{variable} can't be used. {reason}", variable=str(name), reason=must)
