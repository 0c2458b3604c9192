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
from core.engine.bases.hub_request import HubModel
from core.engine.bases.record import Source
from core.engine.formats.unusable_model import UnusableModel
from tests.support import hub_server
from tests.support.engine_process import poll, running
from tests.support.hub_server import REPO, HubServer
from tests.support.tiny_folders import FAMILIES
from tests.support.tiny_models import TinyModel

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


_WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("source", _SOURCES)
@pytest.mark.parametrize("difference", [-1, 1, 100_000])
def test_a_file_of_another_size_than_the_hub_announced_is_refused(
    source: Source, difference: int, server: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    size = (model_folder / _WEIGHTS).stat().st_size
    server.announced, server.unchecked = {_WEIGHTS: size + difference}, frozenset({_WEIGHTS})
    with pytest.raises(UnusableModel) as refused:
        _fetch(tmp_path, source)
    assert refused.value.code == "wrong_size"
    assert f"{size + difference} bytes" in refused.value.reason
    assert not list(tmp_path.glob(f"{_WEIGHTS}*"))
    server.announced = {}
    _fetch(tmp_path, source)


def test_a_response_without_length_that_ends_early_is_not_taken_for_the_file(server: HubServer, tmp_path: Path) -> None:
    server.streamed, server.cuts, server.cut_after = True, 1, 70_000
    server.unchecked = frozenset({_WEIGHTS})
    _fetch(tmp_path)
    assert server.requests[-1][:2] == (_WEIGHTS, "bytes=70000-")


def test_a_response_that_is_longer_than_announced_is_ended(
    server: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    server.streamed, server.sent = True, {_WEIGHTS: bytes(10 * (model_folder / _WEIGHTS).stat().st_size)}
    assert _code(tmp_path) == "wrong_size"
    assert not list(tmp_path.glob(f"{_WEIGHTS}*"))


_NOT_COMPLETE: dict[str, dict[str, bytes]] = {
    "half of the weights": {_WEIGHTS: (1000).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [9], "data'},
    "a web page as weights": {_WEIGHTS: b"<html><title>Not found</title></html>"},
    "half of the configuration": {"config.json": b'{"model_type": "qwen3", '},
}


@pytest.mark.parametrize("case", _NOT_COMPLETE)
def test_without_size_and_checksum_a_file_must_be_complete(case: str, server: HubServer, tmp_path: Path) -> None:
    server.sent = _NOT_COMPLETE[case]
    server.unchecked, server.announced = frozenset(server.sent), dict.fromkeys(server.sent)
    assert _code(tmp_path) == "incomplete_download"
    server.sent = {}
    _fetch(tmp_path)  # the damaged file was deleted


def test_a_gguf_file_without_checksum_must_be_whole(server: HubServer, tmp_path: Path) -> None:
    server.folder = tmp_path / "hub"
    server.folder.mkdir()
    whole = TinyModel("qwen3").write(server.folder / "tiny-Q8_0.gguf").read_bytes()
    server.unchecked, server.announced = frozenset(server.names()), dict.fromkeys(server.names())
    server.sent = {"tiny-Q8_0.gguf": whole[: len(whole) - 1000]}
    assert _code(tmp_path / "files") == "incomplete_download"
    server.sent = {}
    _fetch(tmp_path / "files")
    assert (tmp_path / "files/tiny-Q8_0.gguf").read_bytes() == whole


def test_a_file_that_was_damaged_after_its_download_is_downloaded_again(
    server: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    _fetch(tmp_path)
    damaged = (tmp_path / _WEIGHTS).read_bytes()
    (tmp_path / _WEIGHTS).write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    _fetch(tmp_path)
    assert (tmp_path / _WEIGHTS).read_bytes() == (model_folder / _WEIGHTS).read_bytes()


def test_the_hub_says_whether_it_has_checksums(server: HubServer) -> None:
    for source in _SOURCES:
        assert hub.look_up(source, REPO, "").has_checksums
    server.unchecked = frozenset({_WEIGHTS})
    for source in _SOURCES:
        assert not hub.look_up(source, REPO, "").has_checksums


@pytest.mark.parametrize("source", _SOURCES)
def test_a_redirect_is_followed_and_the_token_stays_with_the_hub(
    source: Source, server: HubServer, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "hf_secret")
    with hub_server.serving(model_folder) as elsewhere:
        server.redirect_to = elsewhere.url
        _fetch(tmp_path, source)
        assert (tmp_path / _WEIGHTS).read_bytes() == (model_folder / _WEIGHTS).read_bytes()
        assert server.authorizations == {"Bearer hf_secret"}
        assert elsewhere.authorizations == {None}
        assert elsewhere.requests


_MIRROR = {"HF_ENDPOINT": "https://mirror.example/hub/", "MODELSCOPE_ENDPOINT": "http://127.0.0.1:8123"}


@pytest.mark.parametrize(
    ("source", "raw", "name", "revision"),
    [
        ("huggingface", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", ""),
        ("huggingface", " https://huggingface.co/Qwen/Qwen3-0.6B/tree/main ", "Qwen/Qwen3-0.6B", ""),
        ("huggingface", "https://huggingface.co/Qwen/Qwen3-0.6B/tree/v1.0", "Qwen/Qwen3-0.6B", "v1.0"),
        ("huggingface", "https://huggingface.co/Qwen/Qwen3-0.6B/blob/refs%2Fpr%2F1/config.json", "Qwen/Qwen3-0.6B",
         "refs/pr/1"),
        ("huggingface", "https://huggingface.co/Qwen/Qwen3-0.6B?library=transformers", "Qwen/Qwen3-0.6B", ""),
        ("huggingface", "hf.co/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", ""),
        ("huggingface", "https://mirror.example/hub/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", ""),
        ("modelscope", "https://www.modelscope.cn/models/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", ""),
        ("modelscope", "https://www.modelscope.cn/models/Qwen/Qwen3-0.6B/files", "Qwen/Qwen3-0.6B", ""),
        ("modelscope", "http://127.0.0.1:8123/models/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", ""),
    ],
)  # fmt: skip
def test_a_name_or_an_address_of_the_hub_names_a_model(source: Source, raw: str, name: str, revision: str) -> None:
    assert hub_request.hub_model(source, raw, "", _MIRROR) == HubModel(name, revision)


@pytest.mark.parametrize(
    ("source", "raw", "code"),
    [
        *(("huggingface", raw, "bad_name") for raw in ("", "qwen", "a/b/c", "../secrets", "a b/c", "Qwen/..")),
        ("huggingface", "https://huggingface.co/Qwen", "bad_name"),
        ("huggingface", "https://huggingface.co.example/Qwen/Qwen3-0.6B", "other_hub"),
        ("huggingface", "https://huggingface.co@example.com/Qwen/Qwen3-0.6B", "other_hub"),
        ("huggingface", "https://huggingface.co:8443/Qwen/Qwen3-0.6B", "other_hub"),
        ("huggingface", "http://169.254.169.254/latest/meta-data", "other_hub"),
        ("huggingface", "https://www.modelscope.cn/models/Qwen/Qwen3-0.6B", "other_hub"),
        ("huggingface", "https://mirror.example/other/Qwen/Qwen3-0.6B", "other_hub"),
        ("modelscope", "https://huggingface.co/Qwen/Qwen3-0.6B", "other_hub"),
    ],
)
def test_other_names_and_addresses_of_other_servers_are_refused(source: Source, raw: str, code: str) -> None:
    with pytest.raises(UnusableModel) as refused:
        hub_request.hub_model(source, raw, "", _MIRROR)
    assert refused.value.code == code
    assert refused.value.next_step


@pytest.mark.parametrize(
    ("raw", "revision", "expected"),
    [
        ("a/b", "main", ""),
        ("a/b", " v1 ", "v1"),
        ("https://huggingface.co/a/b/tree/v1", "v1", "v1"),
        ("https://huggingface.co/a/b/tree/v1", "v2", None),
        ("a/b", "../../other", None),
        ("a/b", "v1?x=1", None),
        ("a/b", "x" * 300, None),
    ],
)
def test_a_revision_is_a_branch_a_tag_or_a_commit(raw: str, revision: str, expected: str | None) -> None:
    if expected is not None:
        assert hub_request.hub_model("huggingface", raw, revision, {}).revision == expected
        return
    with pytest.raises(UnusableModel) as refused:
        hub_request.hub_model("huggingface", raw, revision, {})
    assert refused.value.code == "bad_revision"


def test_the_engine_downloads_in_the_background_once_and_can_be_cancelled(server: HubServer, tmp_path: Path) -> None:
    bases, body = "/fabula/v1/bases", {"source": "huggingface", "repo": REPO}
    with running(tmp_path / "home") as engine, engine.http() as http:
        server.status = 429
        first, second = (http.post(bases, json=body).json() for _ in range(2))
        assert first["id"] == second["id"] == "model"
        poll(lambda: server.requests)
        for more, param in (({"id": "other"}, "id"), ({"revision": "v1"}, "revision")):
            refused = http.post(bases, json=body | more)
            assert (refused.status_code, refused.json()["error"]["param"]) == (409, param)
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
        assert (ready["revision"], ready["checksum"]) == (hub_server.COMMIT, "verified")
        assert ready["disk_bytes"] > 2 * ready["size_bytes"] - 1000  # the download and the converted file
        assert "model" in [model.id for model in engine.client().models.list()]
