"""Settings from environment variables: read once, then passed on as a value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_HOME = ".fabula"
# Environment variables that the engine and its children get: system basics, thread and accelerator settings of the
# libraries, Fabula's own settings. Provider keys, the database URL and proxies are not passed on.
_ENGINE_NAMES = frozenset(
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "VIRTUAL_ENV"]
)
_ENGINE_PREFIXES = (
    *("FABULA_", "LC_", "LD_", "DYLD_", "PYTHON", "XDG_", "MALLOC_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_", "LLAMA_", "TORCH", "PYTORCH_", "CUDA", "NVIDIA_", "HIP_"),
)
# Variables that only downloads of models need: mirror, token, proxies, certificates.
_HUB_NAMES = frozenset(
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"]
)
_HUB_PREFIXES = ("HF_", "HUGGING_FACE_HUB_", "MODELSCOPE_")
_OFF = ("0", "false", "no", "off")
_SECRET = re.compile(r"(KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH|_URL)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Settings:
    """Machine-specific settings.

    Attributes:
        home: folder that holds all local state (database, files, engine home).
        database_url: SQLAlchemy URL of the ledger; SQLite in `home` unless `DATABASE_URL` says otherwise.
        engine_url: base URL of an external engine (without `/v1`); None: the app starts its own.
        engine_token: bearer token of the engine; None: one is generated and stored in `home`.
        secret_key: encrypts the providers' keys in the database; None: a key file in `home` does.
        finds_local_servers: the settings page looks for model servers on this machine.
    """

    home: Path
    database_url: str = field(repr=False)  # may contain a password
    engine_url: str | None
    engine_token: str | None = field(repr=False)
    secret_key: str | None = field(default=None, repr=False)
    finds_local_servers: bool = True

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read FABULA_HOME, DATABASE_URL, FABULA_ENGINE_URL, FABULA_ENGINE_TOKEN, FABULA_SECRET_KEY,
        FABULA_FIND_LOCAL_SERVERS and FABULA_MODE (`team`: a hosted studio, which looks for no servers)."""
        env = os.environ if environ is None else environ
        home = Path(env.get("FABULA_HOME") or DEFAULT_HOME).expanduser().resolve()
        return cls(
            home=home,
            database_url=_sqlalchemy_url(env.get("DATABASE_URL") or f"sqlite:///{home / 'fabula.db'}"),
            engine_url=(env.get("FABULA_ENGINE_URL") or "").rstrip("/") or None,
            engine_token=env.get("FABULA_ENGINE_TOKEN") or None,
            secret_key=env.get("FABULA_SECRET_KEY") or None,
            finds_local_servers=env.get("FABULA_FIND_LOCAL_SERVERS", "").strip().lower() not in _OFF
            and env.get("FABULA_MODE", "").strip().lower() != "team",
        )

    @property
    def engine_home(self) -> Path:
        """Folder of the engine that the app starts itself."""
        return self.home / "engine"


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that the engine and its children need, without secrets."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _ENGINE_NAMES or name.startswith(_ENGINE_PREFIXES)) and not _SECRET.search(name)
    }


def hub_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that downloads from model hubs need, with the hubs' tokens."""
    return {
        name: value for name, value in environ.items() if name.upper() in _HUB_NAMES or name.startswith(_HUB_PREFIXES)
    }


def _sqlalchemy_url(url: str) -> str:
    """Add the driver that Fabula ships to common Postgres URLs."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url
