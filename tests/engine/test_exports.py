"""Exports of tuned models: each form computes what the trainer computes, and a fault in a form is refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from gguf import GGUFReader  # noqa: E402

from core.engine.bases import machine  # noqa: E402
from core.engine.chat_messages import ChatMessage  # noqa: E402
from core.engine.exports import forms, make, merged, modelfile, proof, record, tokenizer  # noqa: E402
from core.engine.exports.forms import Form, Size  # noqa: E402
from core.engine.exports.library import ExportLibrary  # noqa: E402
from core.engine.exports.record import ExportRecord, ExportSpec  # noqa: E402
from core.engine.finetune_format import PromptCompletion  # noqa: E402
from core.engine.formats import folder_converter, gguf_file, hf_folder, weights  # noqa: E402
from core.engine.formats.unusable_model import UnusableModel  # noqa: E402
from core.engine.serving import chat  # noqa: E402
from core.engine.training.trainer import device, model  # noqa: E402
from tests.support.engine_process import TINY, EngineUnderTest, finished, pairs, poll, running, upload  # noqa: E402
from tests.support.tiny_folders import FAMILIES  # noqa: E402
from tests.support.tiny_gemma import write_tiny_gemma  # noqa: E402
from tests.support.tiny_models import TinyModel  # noqa: E402

EXPORTS = "/fabula/v1/exports"
_SEED = 5


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    """A GGUF base with a tuned adapter, and a training file."""
    root = tmp_path_factory.mktemp("gemma")
    gguf = write_tiny_gemma(root / "tiny.gguf")
    spec = _spec(gguf, "", root / "weights")
    _tuned(weights.convert(gguf, root / "weights", print), root)
    (root / "stories.jsonl").write_bytes(pairs(60))
    return replace(spec, training_file=str(root / "stories.jsonl"), facts=(("Steps", "8"), ("Seed", "5")))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    """A base from a folder, of a family whose rows have another order in GGUF, for conversations."""
    root = tmp_path_factory.mktemp("llama")
    folder = FAMILIES["llama3"].write(root / "Tiny Llama", dtype="bfloat16")
    folder_converter.convert(hf_folder.open_folder(folder), root / "tiny.gguf")
    _tuned(folder, root)
    return replace(_spec(root / "tiny.gguf", str(folder), root / "weights"), format="chat")


def _spec(gguf: Path, folder: str, weights_dir: Path) -> ExportSpec:
    return ExportSpec(
        "ft:tiny:fabula::x", "gguf-f16", TINY, str(gguf), folder, str(weights_dir), "me/tiny", "mit", "", "completion"
    )


def _tuned(folder: Path, root: Path) -> None:
    """Write an adapter that changes the model to `root/adapter.gguf`."""
    tunable = model.load(folder, device.cpu(), 4, 8.0)
    tunable.initialise(_SEED)
    generator = torch.Generator().manual_seed(_SEED)
    for layer in tunable.lora.values():
        layer.lora_b.data = torch.randn(layer.lora_b.shape, generator=generator) / 25
    gguf_file.write_adapter(root / "adapter.gguf", tunable.adapter())


def _export(spec: ExportSpec, form: Form, folder: Path, adapter: Path | None = None) -> ExportRecord:
    folder.mkdir()
    shutil.copyfile(adapter or Path(spec.base_gguf).parent / "adapter.gguf", folder / record.ADAPTER)
    record.write(folder, ExportRecord("export-x", replace(spec, form=form), 1, 1000))
    make.Export(folder, 1).run()
    found = record.read(folder)
    assert found is not None
    return found


_CASES = [("gemma", form) for form in forms.FORMS] + [("llama", form) for form in ("peft", "safetensors", "gguf-f16")]


@pytest.mark.parametrize(("base", "form"), _CASES)
def test_an_export_computes_what_the_trainer_computes(
    base: str, form: Form, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    spec: ExportSpec = request.getfixturevalue(base)
    done = _export(spec, form, tmp_path / "export")
    assert (done.state, done.error) == ("ready", "")
    [figure] = done.proof
    assert figure.prompts == proof.PROMPTS
    assert figure.program == ("llama.cpp" if "gguf" in form else figure.program)
    assert figure.max_kl <= (0.5 if form in forms.QUANTISED else forms.MAX_KL)
    files = tmp_path / "export" / record.FILES
    assert {path.name: path.stat().st_size for path in files.iterdir()} == dict(done.files)
    card = (files / make.CARD).read_text(encoding="utf-8")
    for wanted in ("me/tiny", "mit", f"{figure.max_kl:.2g}", *(value for _, value in spec.facts)):
        assert wanted in card
    assert ((files / make.MODELFILE).exists()) == ("gguf" in form)
    assert not (tmp_path / "export" / record.PARTIAL).exists()


def test_the_files_of_a_merged_model_have_the_types_that_their_names_promise(gemma: ExportSpec, tmp_path: Path) -> None:
    wide = TinyModel("qwen3", width=256, head=64)
    gguf = wide.write(tmp_path / "wide.gguf")
    spec = _spec(gguf, "", tmp_path / "weights")
    _tuned(weights.convert(gguf, tmp_path / "weights", print), tmp_path)
    done = _export(spec, "gguf-q4_k_m", tmp_path / "export")
    assert (done.state, done.error) == ("ready", "")
    reader = GGUFReader(tmp_path / "export" / record.FILES / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == "Q6_K"  # it is the head
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.1.attn_v.weight"]) == ("Q4_K", "Q6_K")
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert reader.fields["general.file_type"].contents() == 15
    assert reader.fields["general.name"].contents() == spec.model


@pytest.mark.parametrize("form", ["peft", "safetensors", "gguf-f16"])
def test_a_wrong_scale_is_found_by_the_proof(
    form: Form, gemma: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = make.Export._write

    def doubled(self: make.Export, adapter: gguf_file.Adapter, base: Path, source: Path) -> None:
        written(self, replace(adapter, alpha=2 * adapter.alpha), base, source)

    monkeypatch.setattr(make.Export, "_write", doubled)
    failed = _export(gemma, form, tmp_path / "export")
    assert (failed.state, failed.error_code) == ("failed", "not_the_same_model")
    assert not (tmp_path / "export" / record.FILES).exists()
    assert not (tmp_path / "export" / record.PARTIAL).exists()


@pytest.mark.parametrize("form", ["gguf-adapter", "peft", "safetensors", "gguf-f16"])
def test_an_adapter_of_another_base_is_refused(
    form: Form, gemma: ExportSpec, llama: ExportSpec, tmp_path: Path
) -> None:
    failed = _export(gemma, form, tmp_path / "export", Path(llama.base_gguf).parent / "adapter.gguf")
    assert (failed.state, failed.error_code) == ("failed", "other_base")


@pytest.mark.parametrize("form", ["gguf-adapter", "peft", "gguf-f16"])
def test_an_adapter_without_layers_is_named(form: Form, gemma: ExportSpec, tmp_path: Path) -> None:
    gguf_file.write_adapter(tmp_path / "adapter.gguf", gguf_file.Adapter("gemma3", 8.0, {}))
    failed = _export(gemma, form, tmp_path / "export", tmp_path / "adapter.gguf")
    assert (failed.state, failed.error_code) == ("failed", "damaged_adapter") and "LoRA adapter" in failed.error


def test_a_base_that_is_gone_and_a_full_disk_are_named(
    gemma: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Path(gemma.base_gguf).parent / "adapter.gguf"
    gone = _export(replace(gemma, base_gguf=str(tmp_path / "gone.gguf")), "gguf-q8_0", tmp_path / "one", adapter)
    assert (gone.state, gone.error_code) == ("failed", "base_missing")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(merged, "write_gguf", full)
    failed = _export(gemma, "gguf-f16", tmp_path / "two")
    assert (failed.state, failed.error_code) == ("failed", "disk_full")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [record.ADAPTER, record.FILE]


def test_the_prompts_of_a_model_trained_on_preferences_have_the_preferred_answer(tmp_path: Path) -> None:
    answers = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    asked = {"input": {"messages": [{"role": "user", "content": "a"}]}}
    row = {**asked, "preferred_output": answers[0], "non_preferred_output": answers[1]}
    (tmp_path / "votes.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    [line] = proof.lines(tmp_path / "votes.jsonl")
    assert not isinstance(line, PromptCompletion)
    assert line.messages[-1].text == "yes"


def test_space_is_checked_before_an_export_begins(
    gemma: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ExportLibrary(tmp_path, {}, 1)
    monkeypatch.setattr(machine, "free_bytes", lambda _: 999)
    with pytest.raises(UnusableModel, match="are free"):
        library.add(gemma, Path(gemma.base_gguf).parent / "adapter.gguf", 1000)
    assert library.records() == []


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({record.FILE: "{}", "files/model.gguf": "weights"}, True),  # damaged, or written by a later version
        ({"files/model.gguf": "weights"}, True),
        ({record.ADAPTER: "a copy"}, False),  # killed before the record was written
    ],
)
def test_files_of_an_export_whose_record_cannot_be_read_are_kept(
    files: dict[str, str], kept: bool, tmp_path: Path
) -> None:
    library = ExportLibrary(tmp_path, {}, 1)
    folder = library.root / "export-x"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    library.start()
    assert all((folder / name).exists() == kept for name in files)
    assert library.records() == []


def test_a_model_whose_training_file_is_empty_is_exported(gemma: ExportSpec, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    spec = replace(gemma, training_file=str(tmp_path / "empty.jsonl"))
    found = _export(spec, "gguf-adapter", tmp_path / "export", Path(gemma.base_gguf).parent / "adapter.gguf")
    assert (found.state, found.error) == ("ready", "")


def test_larger_forms_are_estimated_larger() -> None:
    size = Size(parameters=268_000_000, vocabulary=262_144, adapter_bytes=8_000_000)
    estimates = [size.of(form) for form in ("gguf-adapter", "peft", "gguf-q4_k_m", "gguf-q8_0", "gguf-f16")]
    assert estimates == sorted(estimates)


@pytest.mark.parametrize("family", ["gemma3", "qwen3", "llama3"])
def test_the_modelfile_renders_conversations_as_the_engine_does(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family].write(tmp_path / family)
    folder_converter.convert(hf_folder.open_folder(folder), tmp_path / "tiny.gguf")
    chat_format = chat.format_for(gguf_file.model_card(tmp_path / "tiny.gguf"))
    assert chat_format is not None
    texts = modelfile.turn_texts(chat_format)
    assert texts is not None
    for turns in (
        [("user", "Hello")],
        [("system", "Be kind."), ("user", "Hello")],
        [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye")],
    ):
        messages = [ChatMessage(role, text) for role, text in turns]
        assert texts.prompt(turns) == chat_format.prompt(messages)
    written = modelfile.of_chat("FROM ./model.gguf\n", texts, chat_format.stop)
    assert written.startswith("FROM ./model.gguf\nTEMPLATE")
    assert json.dumps(texts.answer) in written


def test_a_converted_tokenizer_is_kept_for_the_next_export(gemma: ExportSpec, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tokenizer.write(Path(gemma.base_gguf), None, tmp_path, tmp_path / name)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()


# --- the engine -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FABULA_TRAINER_PRIORITY", "normal")  # a busy machine has little idle time
        with running(tmp_path_factory.mktemp("exports") / "home") as started:
            yield started


def _over(http: httpx2.Client, export_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        one: dict[str, Any] = http.get(f"{EXPORTS}/{export_id}").json()
        return one if one["state"] in ("ready", "failed") else None

    return poll(look)


def test_a_trained_model_is_exported_downloaded_and_deleted_also_after_kill_9(engine: EngineUnderTest) -> None:
    client = engine.client(strict=False)
    file_id = upload(client, pairs(12))
    job = finished(client, client.fine_tuning.jobs.create(model=TINY, training_file=file_id).id)
    with engine.http() as http:
        for body, status, code in (
            ({"model": TINY, "form": "peft"}, 400, "not_tuned"),
            ({"model": "ft:nobody", "form": "peft"}, 404, "model_not_found"),
            ({"model": job.fine_tuned_model, "form": "zip"}, 400, "invalid_value"),
        ):
            refused = http.post(EXPORTS, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        asked = {"model": job.fine_tuned_model, "form": "gguf-f16"}
        begun = http.post(EXPORTS, json=asked).json()
        assert http.post(EXPORTS, json=asked).json()["id"] == begun["id"]
    engine.kill()
    engine.start()
    with engine.http() as http:
        done = _over(http, begun["id"])
        assert (done["state"], done["error"]) == ("ready", None)
        assert done["proof"][0]["max_kl"] <= forms.MAX_KL
        sizes = {one["name"]: one["bytes"] for one in done["files"]}
        got = http.get(f"{EXPORTS}/{done['id']}/files/model.gguf")
        assert (got.content[:4], len(got.content)) == (b"GGUF", sizes["model.gguf"])
        assert "stories.jsonl, 12 examples" in http.get(f"{EXPORTS}/{done['id']}/files/README.md").text
        assert http.get(f"{EXPORTS}/{done['id']}/files/..%2Frecord.json").status_code == 404
        listed = http.get(EXPORTS, params={"model": job.fine_tuned_model}).json()
        assert [one["id"] for one in listed["data"]] == [done["id"]]
        assert set(listed["estimated_bytes"]) == set(forms.FORMS)
        assert http.delete(f"{EXPORTS}/{done['id']}").json()["deleted"]
        assert http.get(EXPORTS).json()["data"] == []
    assert not any((engine.home / "exports").iterdir())
