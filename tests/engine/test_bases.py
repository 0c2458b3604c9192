"""/fabula/v1/bases: base models are added from files and folders, trained, served and removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from openai import APIStatusError, BadRequestError, OpenAI

from core import packaged_models
from core.engine.api.models import ModelCatalogue
from core.engine.bases import description, machine
from core.engine.bases.library import ROOTS, BaseLibrary
from core.engine.bases.record import BaseRecord
from core.engine.formats.unusable_model import UnusableModel
from core.engine.job_rules import PARALLEL
from core.engine.store import EngineStore
from tests.support.engine_process import EngineUnderTest, finished, jsonl, poll, running, upload
from tests.support.tiny_folders import FAMILIES
from tests.support.tiny_models import TinyModel

BASES = "/fabula/v1/bases"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("bases") / "home") as started:
        yield started


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["llama3"].write(tmp_path_factory.mktemp("folders") / "Tiny Llama")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["qwen3"].write(tmp_path_factory.mktemp("folders") / "tiny-qwen3", dtype="bfloat16")


def _add(http: httpx2.Client, **body: str) -> dict[str, Any]:
    answer = http.post(BASES, json=body)
    assert answer.status_code == 200, answer.text
    added: dict[str, Any] = answer.json()
    return added


def _prepared(http: httpx2.Client, base_id: str) -> dict[str, Any]:
    """Wait until a base is ready or failed."""

    def look() -> dict[str, Any] | None:
        one: dict[str, Any] = http.get(f"{BASES}/{base_id}").json()
        return one if one["state"] in ("ready", "failed") else None

    return poll(look)


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_a_base_from_a_folder_trains_and_serves_from_its_own_weights(
    family: str, engine: EngineUnderTest, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(family)
    with engine.http() as http:
        added = _add(http, source="folder", path=str(folder))
        assert added["state"] in ("waiting", "converting", "checking")
        ready = _prepared(http, added["id"])
        assert (ready["state"], ready["error"], ready["not_trainable"]) == ("ready", None, None)
        assert ready["parameters"] > 100_000
        assert ready["serving_bytes"] > ready["disk_bytes"] > ready["size_bytes"]
        assert _add(http, source="folder", path=str(folder))["id"] == added["id"]  # the same folder is the same base
        base = added["id"]
        client = engine.client(strict=False)
        assert _format(client, base) == "both"
        training_file = upload(client, jsonl([{"prompt": "the hero", "completion": " said we'll win"}] * 24))
        job = client.fine_tuning.jobs.create(
            model=base, training_file=training_file, seed=1, hyperparameters={"learning_rate_multiplier": 5}
        )
        ended = finished(client, job.id)
        assert ended.status == "succeeded", ended.error
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
        assert not any(message.startswith("Converting") for message in messages)
        stream = client.completions.create(
            model=ended.fine_tuned_model or "", prompt="the hero", max_tokens=12, temperature=0, stream=True
        )
        assert "said we'll win" in "".join(chunk.choices[0].text for chunk in stream)
        assert http.delete(f"{BASES}/{base}").status_code == 200
        assert (folder / "model.safetensors").exists()  # the user's own files stay
        assert base not in [model.id for model in client.models.list()]
        with pytest.raises(APIStatusError) as gone:
            client.completions.create(model=ended.fine_tuned_model or "", prompt="a", max_tokens=1)
        assert gone.value.status_code == 404
        _prepared(
            http, _add(http, source="folder", path=str(folder), id=base)["id"]
        )  # added again, its models work again
        assert client.completions.create(model=ended.fine_tuned_model or "", prompt="a", max_tokens=1).usage is not None


def _format(client: OpenAI, model: str) -> str:
    """What a model answers to, as the list says."""
    return next(one.model_extra["fabula"]["format"] for one in client.models.list() if one.id == model)  # type: ignore[index]


def test_a_base_without_a_chat_template_says_so_and_answers_completions(
    engine: EngineUnderTest, llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(llama, tmp_path / "plain-llama")
    config = tmp_path / "plain-llama" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": None}))
    client = engine.client(strict=False)
    with engine.http() as http:
        base = _prepared(http, _add(http, source="folder", path=str(tmp_path / "plain-llama"))["id"])["id"]
    assert _format(client, base) == "completion"
    assert client.completions.create(model=base, prompt="the hero", max_tokens=2).usage is not None
    with pytest.raises(BadRequestError):
        client.chat.completions.create(model=base, messages=[{"role": "user", "content": "Hello"}])


def test_a_gguf_file_is_added_under_a_name_and_served(engine: EngineUnderTest, tmp_path: Path) -> None:
    TinyModel("gemma3", keys={"final_logit_softcapping": 30.0}).write(tmp_path / "some model.gguf")
    with engine.http() as http:
        _add(http, source="file", path=str(tmp_path / "some model.gguf"), id="my-gemma")
        ready = _prepared(http, "my-gemma")
        assert (ready["state"], ready["architecture"], ready["disk_bytes"] < 50_000) == ("ready", "gemma3", True)
        assert "final_logit_softcapping" in ready["not_trainable"]
        listed = http.get(BASES).json()
        assert listed["machine"]["memory_bytes"] > 0
        client = engine.client()
        assert client.completions.create(model="my-gemma", prompt="a", max_tokens=2, temperature=0).usage is not None
        TinyModel("qwen3").write(tmp_path / "other.gguf")
        taken = http.post(BASES, json={"source": "file", "path": str(tmp_path / "other.gguf"), "id": "my-gemma"})
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "base_exists")
        reserved = http.post(BASES, json={"source": "file", "path": str(tmp_path / "other.gguf"), "id": "gemma-3-270m"})
        assert reserved.json()["error"]["code"] == "base_exists"


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def _tokenizer(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|."
    (folder / "tokenizer.json").write_text(json.dumps(raw))


_BAD_FOLDERS: dict[str, Callable[[Path], object]] = {
    "no_tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no_config": lambda folder: (folder / "config.json").unlink(),
    "bad_config": lambda folder: (folder / "config.json").write_text("{"),
    "no_weights": lambda folder: (folder / "model.safetensors").unlink(),
    "cut_file": _cut,
    "missing_weights": lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}})
    ),
    "quantised_folder": _config(quantization_config={"quant_method": "gptq"}),
}


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Write `model.safetensors` with a changed header."""

    def rewrite(folder: Path) -> None:
        file = folder / "model.safetensors"
        content = file.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        change(header[next(name for name in header if name != "__metadata__")])
        changed = json.dumps(header).encode()
        file.write_bytes(len(changed).to_bytes(8, "little") + changed + content[end:])

    return rewrite


_DAMAGED_FOLDERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "shape": ("cut_file", _header(lambda entry: entry.update(shape=[10**6, 10**6]))),
    "no dtype": ("cut_file", _header(lambda entry: entry.pop("dtype"))),
    "offsets": ("cut_file", _header(lambda entry: entry.update(data_offsets="all"))),
    "before the data": (
        "cut_file",
        _header(lambda entry: entry.update(data_offsets=[at - 64 for at in entry["data_offsets"]])),
    ),
    "cut index": (
        "bad_config",
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "mod'),
    ),
    "a list as index": ("bad_config", lambda folder: (folder / "model.safetensors.index.json").write_text("[]")),
    "nested": ("bad_config", lambda folder: (folder / "config.json").write_text("[" * 100_000)),
}


@pytest.mark.parametrize("damage", _DAMAGED_FOLDERS)
def test_a_damaged_header_in_a_folder_is_refused(damage: str, llama: Path, tmp_path: Path) -> None:
    code, change = _DAMAGED_FOLDERS[damage]
    shutil.copytree(llama, tmp_path / "folder")
    change(tmp_path / "folder")
    assert _refused(tmp_path, tmp_path / "folder") == code


@pytest.mark.parametrize("code", _BAD_FOLDERS)
def test_a_bad_folder_is_refused_with_a_next_step(code: str, llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "folder")
    _BAD_FOLDERS[code](tmp_path / "folder")
    assert _refused(tmp_path, tmp_path / "folder") == code


_BAD_AFTER_START: dict[str, Callable[[Path], object]] = {
    "unknown_architecture": _config(model_type="of_tomorrow"),
    "unsupported_setting": _config(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    "tokenizer_type": _tokenizer,
}


@pytest.mark.parametrize("code", _BAD_AFTER_START)
def test_a_folder_that_cannot_be_converted_fails_with_its_reason(
    code: str, llama: Path, engine: EngineUnderTest, tmp_path: Path
) -> None:
    shutil.copytree(llama, tmp_path / code)
    _BAD_AFTER_START[code](tmp_path / code)
    with engine.http() as http:
        failed = _prepared(http, _add(http, source="folder", path=str(tmp_path / code))["id"])
        assert (failed["state"], failed["error"]["code"]) == ("failed", code)
        assert code not in [model.id for model in engine.client().models.list()]
        assert _prepared(http, http.post(f"{BASES}/{failed['id']}/retry").json()["id"])["state"] == "failed"
        assert http.delete(f"{BASES}/{failed['id']}").status_code == 200


def _refused(home: Path, path: Path, **environ: str) -> str:
    with pytest.raises(UnusableModel) as refused:
        BaseLibrary(home / "home", environ, 1).add_path(str(path), None, frozenset())
    assert refused.value.next_step
    return refused.value.code


def test_a_bad_file_is_refused_with_a_next_step(tmp_path: Path) -> None:
    whole = TinyModel("llama").write(tmp_path / "whole.gguf").read_bytes()
    for name, content, code in (
        ("cut.gguf", whole[: len(whole) // 2], "cut_file"),
        ("head.gguf", whole[:2000], "cut_file"),
        ("empty.gguf", b"", "not_gguf"),
        ("text.gguf", b"hello, this is a text", "not_gguf"),
        ("future.gguf", whole.replace(b"llama", b"lamaX"), "unknown_architecture"),
    ):
        (tmp_path / name).write_bytes(content)
        assert _refused(tmp_path, tmp_path / name) == code, name
    assert _refused(tmp_path, tmp_path / "nothing.gguf") == "no_such_path"
    assert _refused(tmp_path, Path("whole.gguf")) == "relative_path"


def _gguf(**values: str) -> bytes:
    """A GGUF file with these values and an array that claims to have 2^60 texts."""
    text = {name: len(value).to_bytes(8, "little") + value.encode() for name, value in values.items()}
    pairs = [
        len(name).to_bytes(8, "little") + name.encode() + (8).to_bytes(4, "little") + value
        for name, value in text.items()
    ]
    key = b"tokenizer.ggml.tokens"
    array = (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + (1 << 60).to_bytes(8, "little")
    pairs.append(len(key).to_bytes(8, "little") + key + array)
    return b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + len(pairs).to_bytes(8, "little") + b"".join(pairs)


def _too_long(*_: object) -> None:
    raise TimeoutError


def test_a_damaged_header_of_a_file_is_refused_and_never_read_for_ever(tmp_path: Path) -> None:
    (tmp_path / "endless.gguf").write_bytes(_gguf(**{"general.architecture": "llama"}))
    earlier = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(30)
    try:
        assert _refused(tmp_path, tmp_path / "endless.gguf") == "cut_file"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
    whole = TinyModel("llama").write(tmp_path / "whole.gguf").read_bytes()
    name = b"llama.block_count"
    place = whole.index(name) + len(name)
    (tmp_path / "typed.gguf").write_bytes(whole[:place] + (99).to_bytes(4, "little") + whole[place + 4 :])
    assert _refused(tmp_path, tmp_path / "typed.gguf") == "cut_file"
    os.mkfifo(tmp_path / "pipe.gguf")
    assert _refused(tmp_path, tmp_path / "pipe.gguf") == "no_such_path"


def test_a_path_outside_the_allowed_folders_is_refused(tmp_path: Path) -> None:
    allowed = tmp_path / "models"
    allowed.mkdir()
    TinyModel("llama").write(tmp_path / "outside.gguf")
    (allowed / "link.gguf").symlink_to(tmp_path / "outside.gguf")
    for path in (tmp_path / "outside.gguf", allowed / "link.gguf", allowed / ".." / "outside.gguf"):
        assert _refused(tmp_path, path, **{ROOTS: str(allowed)}) == "path_not_allowed"


def _cut_gguf(folder: Path) -> Path:
    whole = TinyModel("llama").write(folder / "cut.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.gguf"


def _future_gguf(folder: Path) -> Path:
    whole = TinyModel("llama").write(folder / "future.gguf").read_bytes()
    (folder / "future.gguf").write_bytes(whole.replace(b"llama", b"lamaX"))
    return folder / "future.gguf"


def _huge_folder(folder: Path) -> Path:
    """A folder whose weights are larger than this machine's memory; they take no disk."""
    path = FAMILIES["llama3"].write(folder / "huge")
    rows = machine.memory_bytes() // 2048
    header = {"model.embed_tokens.weight": {"dtype": "F16", "shape": [rows, 2048], "data_offsets": [0, rows * 4096]}}
    raw = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        out.truncate(8 + len(raw) + rows * 4096)
    return path


def _without_tokenizer(folder: Path) -> Path:
    path = FAMILIES["llama3"].write(folder / "mute")
    (path / "tokenizer.json").unlink()
    return path


@pytest.mark.parametrize(
    ("make", "code", "reason", "next_step"),
    [
        (_cut_gguf, "cut_file", "The file cut.gguf is incomplete", "Download or copy it again."),
        (
            _future_gguf,
            "unknown_architecture",
            "an unsupported architecture: 'lamaX'",
            "Choose another model",
        ),
        (_huge_folder, "too_big", "Serving this model needs about", "Choose a smaller model"),
        (_without_tokenizer, "no_tokenizer", "has no tokenizer.json", "Copy the model's tokenizer files"),
        (lambda folder: folder / "nothing", "no_such_path", "There is no file or folder", "Check the spelling"),
        pytest.param(
            lambda _: Path("/proc/self/mem"),
            "not_readable",
            "mem cannot be read: Input/output error.",
            "Check the disk",
            marks=pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file that fails to read"),
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_a_sentence(
    make: Callable[[Path], Path], code: str, reason: str, next_step: str, engine: EngineUnderTest, tmp_path: Path
) -> None:
    path = make(tmp_path)
    with engine.http() as http:
        refused = http.post(BASES, json={"source": "folder" if path.is_dir() else "file", "path": str(path)})
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, "path", code)
        assert reason in error["message"]
        assert next_step in error["message"]
        assert not [one for one in http.get(BASES).json()["data"] if one["path"] == str(path)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = TinyModel("llama").write(tmp_path / "secret.gguf")
    path.chmod(0)
    assert _refused(tmp_path, path) == "not_readable"


def test_a_model_that_is_bigger_than_memory_is_refused_before_any_work(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 300 << 20)
    assert _refused(tmp_path, llama) == "too_big"
    assert _refused(tmp_path, TinyModel("qwen3").write(tmp_path / "tiny.gguf")) == "too_big"


def test_estimates_are_scaled_by_parameters() -> None:
    assert packaged_models.scaled_speed(40.0, 2 * packaged_models.PARAMETERS) == pytest.approx(20.0)
    assert packaged_models.scaled_speed(None, 1) is None
    small, large = (machine.Shape(n, 18, 640, 256, 4096) for n in (10**9, 2 * 10**9))
    assert machine.training_bytes(large) - machine.training_bytes(small) == 2 * 10**9
    assert machine.serving_bytes(10**9, small) > 10**9
    longer = machine.Shape(10**9, 18, 640, 256, 8192)  # 18 layers of keys and values as float16, for each request
    assert machine.serving_bytes(0, longer) - machine.serving_bytes(0, small) == PARALLEL * 4096 * 18 * 256 * 2 * 2


@pytest.mark.parametrize(
    ("memory", "environ", "cuda", "reason"),
    [
        (900 << 20, {}, False, "training it needs at least 0.9 GB of memory, and this machine has 0.9 GB, which"),
        (900 << 20, {"FABULA_LAUNCHER": "ray://head"}, False, None),  # the memory of its nodes counts
        (900 << 20, {"FABULA_ENGINE_DEVICE": "cuda"}, False, None),
        (900 << 20, {}, True, None),
        (900 << 20, {"FABULA_ENGINE_DEVICE": "cpu"}, True, "training it needs"),
        (2 << 30, {}, False, None),
    ],
)
def test_a_base_that_does_not_fit_is_named_before_a_job_starts_with_what_would_fit(
    memory: int, environ: dict[str, str], cuda: bool, reason: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(machine, "memory_bytes", lambda: memory)
    monkeypatch.setattr(machine, "_torch_knows_cuda", lambda: cuda)
    file = TinyModel("qwen3").write(tmp_path / "tiny.gguf")
    settings = {"FABULA_ENGINE_MODELS": f"tiny={file}", **environ}
    models = ModelCatalogue(tmp_path, settings, EngineStore(tmp_path / "engine.db"), BaseLibrary(tmp_path, {}, 1))
    added = description.describe_file(BaseRecord("mine", "file", str(file), 0), file, 4096)
    for found in (models.not_trainable(models.base("tiny")), models.added_not_trainable(added)):
        assert (found or "").startswith(reason) if reason else found is None
