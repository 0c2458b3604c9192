"""Downloads of base models from a local server that speaks the hubs' APIs: cuts, refusals, damage, a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine.bases import download, hub, hub_request, machine
from core.engine.bases.record import Source
from core.engine.formats.unusable_model import UnusableModel
from tests.support import hub_server
from tests.support.engine_process import poll, running
from tests.support.hub_server import REPO, HubServer
from tests.support.tiny_folders import FAMILIES

_SOURCES: tuple[Source, ...] = ("huggingface", "modelscope")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = FAMILIES["qwen3"].write(tmp_path_factory.mktemp("hub") / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "picture.png").write_bytes(b"not needed")
    return folder


@pytest.fixture
def server(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server.serving(model_folder) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", started.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read at import
        monkeypatch.setattr(download, "_PAUSE_S", 0.01)
        yield started


def _fetch(folder: Path, source: Source = "huggingface", repo: str = REPO, revision: str = "") -> list[tuple[int, int]]:
    """Download the model; returns its progress."""
    seen: list[tuple[int, int]] = []
    download.download(hub.look_up(source, repo, revision), repo, folder, lambda done, total: seen.append((done, total)))
    return seen


def _code(folder: Path, **more: Any) -> str:
    with pytest.raises(UnusableModel) as refused:
        _fetch(folder, **more)
    assert refused.value.next_step
    return refused.value.code


@pytest.mark.parametrize("source", _SOURCES)
def test_only_what_is_needed_is_downloaded_and_progress_ends_at_the_total(
    source: Source, server: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    seen = _fetch(tmp_path / "files", source)
    assert (tmp_path / "files/model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()
    assert {path.name for path in (tmp_path / "files").iterdir()} >= {"config.json", "tokenizer.json", "README.md"}
    assert not (tmp_path / "files/picture.png").exists()
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert hub.look_up(source, REPO, "").licence == "apache-2.0"
    asked = len(server.requests)
    _fetch(tmp_path / "files", source)  # complete files are not requested again
    assert len(server.requests) == asked


@pytest.mark.parametrize("source", _SOURCES)
def test_a_cut_download_continues_where_it_stopped(source: Source, server: HubServer, tmp_path: Path) -> None:
    server.cuts = 3
    _fetch(tmp_path, source)
    ranges = [asked for name, asked, _ in server.requests if name == "model.safetensors"]
    assert ranges == [None, "bytes=50000-", "bytes=100000-", "bytes=150000-"]


def test_a_line_that_stays_cut_ends_with_a_reason_and_a_retry_continues(server: HubServer, tmp_path: Path) -> None:
    server.cuts, server.cut_after = 100, 0
    assert _code(tmp_path) == "download_cut"
    server.cuts, server.cut_after = 1, 60_000
    _fetch(tmp_path)
    assert server.requests[-1][:2] == ("model.safetensors", "bytes=60000-")


def test_a_damaged_file_is_deleted_and_downloaded_anew(server: HubServer, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):  # checked with SHA-256, and with git's SHA-1
        server.wrong, folder = frozenset({name}), tmp_path / name
        assert _code(folder) == "wrong_checksum"
        assert not list(folder.glob(f"{name}*"))
        server.wrong = frozenset()
        _fetch(folder)


@pytest.mark.parametrize(
    ("change", "code"),
    [({"token": "hf_other"}, "gated"), ({"status": 404}, "hub_refused"), ({"status": 503}, "download_cut")],
)
def test_a_refused_file_names_its_cause(change: dict[str, Any], code: str, server: HubServer, tmp_path: Path) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    assert _code(tmp_path) == code


def test_terms_are_named_with_the_page_where_they_are_accepted(server: HubServer, tmp_path: Path) -> None:
    server.gated, server.token = True, "hf_secret"
    with pytest.raises(UnusableModel) as refused:
        _fetch(tmp_path)
    assert refused.value.code == "gated"
    assert f"{server.url}/{REPO}" in refused.value.next_step


def test_the_token_is_sent_and_opens_a_gated_model(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gated, server.token = True, "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    _fetch(tmp_path)
    assert {authorization for *_, authorization in server.requests} == {"Bearer hf_secret"}


@pytest.mark.parametrize("source", _SOURCES)
def test_a_model_that_does_not_exist_is_said_to_be_missing(source: Source, server: HubServer, tmp_path: Path) -> None:
    assert _code(tmp_path, source=source, repo="tiny/other") == "no_such_model"


@pytest.mark.parametrize("source", _SOURCES)
def test_without_a_network_the_other_ways_are_offered(
    source: Source, server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert _code(tmp_path, source=source) == "offline"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _code(tmp_path, source=source) == "offline"


def test_too_little_disk_or_memory_is_noticed_before_the_download(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(machine, "free_bytes", lambda _: 100_000)
        assert _code(tmp_path) == "disk_full"
    with monkeypatch.context() as patch:
        patch.setattr(machine, "memory_bytes", lambda: 100_000)
        assert _code(tmp_path) == "too_big"
    assert server.requests == []


def test_a_disk_that_fills_up_meanwhile_ends_the_download(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        monkeypatch.setattr(machine, "free_bytes", lambda _: 10**12)  # another program takes the space after the check
        with pytest.raises(OSError) as full:
            _fetch(small / "files")
        assert full.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        (" https://huggingface.co/Qwen/Qwen3-0.6B/tree/main ", "Qwen/Qwen3-0.6B"),
        ("https://www.modelscope.cn/models/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ],
)
def test_a_name_or_an_address_names_a_model(raw: str, name: str) -> None:
    assert hub_request.repo_name(raw) == name


@pytest.mark.parametrize("raw", ["", "qwen", "a/b/c", "../secrets", "a b/c", "Qwen/.."])
def test_other_names_are_refused(raw: str) -> None:
    with pytest.raises(UnusableModel) as refused:
        hub_request.repo_name(raw)
    assert refused.value.code == "bad_name"


def test_the_engine_downloads_in_the_background_once_and_can_be_cancelled(server: HubServer, tmp_path: Path) -> None:
    bases, body = "/fabula/v1/bases", {"source": "huggingface", "repo": REPO}
    with running(tmp_path / "home") as engine, engine.http() as http:
        server.status = 429
        first, second = (http.post(bases, json=body).json() for _ in range(2))
        assert first["id"] == second["id"] == "model"
        poll(lambda: server.requests)
        assert len(http.get(bases).json()["data"]) == 1
        assert http.delete(f"{bases}/model").status_code == 200  # cancels it
        assert not os.listdir(tmp_path / "home/bases")
        server.status = None
        http.post(bases, json=body)

        def done() -> dict[str, Any] | None:
            one: dict[str, Any] = http.get(f"{bases}/model").json()
            return one if one["state"] in ("ready", "failed") else None

        ready = poll(done)
        assert (ready["state"], ready["error"], ready["licence"]) == ("ready", None, "apache-2.0")
        assert ready["revision"] == hub_server.COMMIT
        assert ready["disk_bytes"] > 2 * ready["size_bytes"] - 1000  # the download and the converted file
        assert "model" in [model.id for model in engine.client().models.list()]
