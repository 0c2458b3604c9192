"""Encrypts what the database must not contain in plain text: AES-256-GCM with a key that is kept outside the database.

The key comes from FABULA_SECRET_KEY, or from a file in the home folder that only its owner can read. A value is bound
to its `context` (which provider, which address): copied to another place, it cannot be decrypted.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import Misconfigured, StorageFull
from core.message import msg
from core.settings import Settings

_FILE = "secret.key"
_FORMAT = "v1"
_NONCE_BYTES = 12  # as NIST SP 800-38D recommends for GCM
_KEY_BYTES = 32
_SALT = b"fabula provider keys"  # fixed: every process must derive the same key
_COST = {"n": 1 << 14, "r": 8, "p": 1}  # scrypt, about 50 ms once per process (RFC 7914's parameters for logins)


class SecretKey:
    """The key of one studio. `encrypt` creates the key file if there is none; `decrypt` never does.

    Raises:
        Misconfigured: the key file is damaged or cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = key_file(settings.home)
        self._secret = settings.secret_key

    @property
    def in_environment(self) -> bool:
        """Whether the key comes from FABULA_SECRET_KEY."""
        return self._secret is not None

    def encrypt(self, text: str, context: str) -> str:
        """The encrypted text, as ASCII.

        Raises:
            StorageFull: the key file cannot be written.
        """
        key = self._key() or self._create()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(key).encrypt(nonce, text.encode(), context.encode())
        return f"{_FORMAT}:{_fingerprint(key)}:{base64.urlsafe_b64encode(sealed).decode()}"

    def decrypt(self, sealed: str, context: str, name: str) -> str:
        """The text of an encrypted value.

        Args:
            name: what the value belongs to, for the error message.

        Raises:
            Misconfigured: it was encrypted with another key, the key is missing, or it was changed.
        """
        key = self._key()
        if key is None:
            raise self._no_key(name)
        try:
            version, fingerprint, data = sealed.split(":")
            raw = base64.urlsafe_b64decode(data)
            if version != _FORMAT:
                raise ValueError(version)
        except ValueError as exc:
            raise _damaged(name) from exc
        if fingerprint != _fingerprint(key):
            raise self._other_key(name)
        try:
            return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode()).decode()
        except (InvalidTag, ValueError) as exc:
            raise _damaged(name) from exc

    def _key(self) -> bytes | None:
        """The key, or None if there is no key file yet."""
        if self._secret is not None:
            return _derived(self._secret)
        try:
            key = base64.urlsafe_b64decode(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise Misconfigured(
                msg("The key file {path} cannot be read: {reason}.", path=self._path, reason=exc.strerror),
                msg("Make it readable for Fabula's user."),
            ) from exc
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise Misconfigured(
                msg("The key file {path} is damaged.", path=self._path),
                msg("Restore it from a backup. Or delete it, and enter the providers' keys again."),
            )
        return key

    def _create(self) -> bytes:
        """Create the key file. If two processes do so at the same time, both get the first one's key."""
        temporary = self._path.with_suffix(f".{secrets.token_hex(8)}.part")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, self._path)  # atomic: the first process to link sets the key
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        except OSError as exc:
            raise StorageFull(
                msg("The key file {path} cannot be written: {reason}.", path=self._path, reason=exc.strerror),
                msg("Free some space, or set FABULA_SECRET_KEY and restart Fabula."),
            ) from exc
        key = self._key()
        assert key is not None
        return key

    def _no_key(self, name: str) -> Misconfigured:
        return Misconfigured(
            msg("The key of {name} can't be decrypted: the key file {path} is missing.", name=name, path=self._path),
            msg(
                "Restore it from a backup, or set the FABULA_SECRET_KEY that it was saved with. "
                "If both are lost, enter the key of {name} again under Settings → Providers.",
                name=name,
            ),
        )

    def _other_key(self, name: str) -> Misconfigured:
        source = "FABULA_SECRET_KEY" if self.in_environment else str(self._path)
        return Misconfigured(
            msg("The key of {name} was encrypted with another secret key than {source}.", name=name, source=source),
            msg(
                "Set the secret key that it was saved with, the same for every worker, and restart Fabula. "
                "If it is lost, enter the key of {name} again under Settings → Providers.",
                name=name,
            ),
        )


def _damaged(name: str) -> Misconfigured:
    return Misconfigured(
        msg("The saved key of {name} is damaged or was copied from another provider.", name=name),
        msg("Enter the key of {name} again under Settings → Providers.", name=name),
    )


def key_file(home: Path) -> Path:
    """Where the key is kept without FABULA_SECRET_KEY."""
    return home / _FILE


@lru_cache(maxsize=4)
def _derived(secret: str) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=_SALT, dklen=_KEY_BYTES, **_COST)


def _fingerprint(key: bytes) -> str:
    """A fingerprint that distinguishes keys without revealing them."""
    return hashlib.sha256(b"fabula fingerprint" + key).hexdigest()[:8]
