"""Encryption of the providers' keys: what is encrypted can be read back with the same secret key, and only so."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from core.errors import Misconfigured
from core.message import Message
from core.secret_key import SecretKey, key_file
from core.settings import Settings

_SECRET = "a secret of thirty-two characters"


def _key(home: Path, secret: str = "") -> SecretKey:
    return SecretKey(Settings.from_env({"FABULA_HOME": str(home), "FABULA_SECRET_KEY": secret}))


@pytest.mark.parametrize("secret", ["", _SECRET], ids=["file", "environment"])
def test_what_was_encrypted_can_be_read_back_in_another_process(home: Path, secret: str) -> None:
    sealed = _key(home, secret).encrypt("sk-1 密钥", "provider a")
    assert "sk-1" not in sealed and sealed.isascii()
    assert _key(home, secret).decrypt(sealed, "provider a", "A") == "sk-1 密钥"
    assert key_file(home).exists() is (secret == "")


def test_the_key_file_belongs_to_its_owner_alone(home: Path) -> None:
    previous = os.umask(0)
    try:
        _key(home).encrypt("sk-1", "x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(key_file(home).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["secret.key"]


def test_two_processes_that_start_at_once_have_one_key(home: Path) -> None:
    barrier, sealed = threading.Barrier(4), list[str]()

    def encrypt() -> None:
        barrier.wait()
        sealed.append(_key(home).encrypt("sk-1", "x"))

    threads = [threading.Thread(target=encrypt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [_key(home).decrypt(one, "x", "A") for one in sealed] == ["sk-1"] * 4


def test_the_same_text_is_never_encrypted_to_the_same_value(home: Path) -> None:
    key = _key(home)
    assert key.encrypt("sk-1", "x") != key.encrypt("sk-1", "x")


def _lose_file(home: Path) -> SecretKey:
    key_file(home).unlink()
    return _key(home)


def _replace_file(home: Path) -> SecretKey:
    key_file(home).unlink()
    _key(home).encrypt("other", "x")
    return _key(home)


def _damage_file(home: Path) -> SecretKey:
    key_file(home).write_text("not a key")
    return _key(home)


def _set_variable(home: Path) -> SecretKey:
    return _key(home, _SECRET)


def _folder_for_file(home: Path) -> SecretKey:
    key_file(home).unlink()
    key_file(home).mkdir()
    return _key(home)


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (_lose_file, "is missing"),
        (_replace_file, "another secret key"),
        (_damage_file, "is damaged"),
        (_set_variable, "another secret key than FABULA_SECRET_KEY"),
        (_folder_for_file, "cannot be read"),
    ],
)
def test_a_lost_or_wrong_secret_key_is_named_with_a_next_step(home: Path, happens: object, told: str) -> None:
    sealed = _key(home).encrypt("sk-canary", "x")
    key = happens(home)  # type: ignore[operator]
    with pytest.raises(Misconfigured) as failed:
        key.decrypt(sealed, "x", "Mistral")
    assert isinstance(failed.value.what, Message) and told in failed.value.what
    assert failed.value.next_step and "sk-canary" not in failed.value.what
    assert happens is not _lose_file or not key_file(home).exists()  # reading never makes a new key


@pytest.mark.parametrize("change", ["context", "text", "version", "rubbish"])
def test_a_changed_value_is_refused(home: Path, change: str) -> None:
    key = _key(home)
    sealed, context = key.encrypt("sk-1", "provider a"), "provider a"
    if change == "context":
        context = "provider b"
    elif change == "text":
        sealed = sealed[:-4] + ("AAAA" if not sealed.endswith("AAAA") else "BBBB")
    else:
        sealed = sealed.replace("v1", "v9") if change == "version" else "rubbish"
    with pytest.raises(Misconfigured, match=r"damaged|another provider"):
        key.decrypt(sealed, context, "A")
