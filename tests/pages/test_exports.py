"""Training, model files: what a visitor sees and does, with a real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.actor import Actor
from core.db.store import Store
from core.engine.exports import record
from core.engine.formats import gguf_file, weights
from core.engine.store import EngineStore, TunedModel
from core.engine.training.trainer import device, model
from core.errors import NotAllowed
from core.message import percent
from core.providers import engine_exports
from pages.ui import cache
from tests.support.app_pages import again, click, field, trouble, visit, words
from tests.support.engine_process import TINY, TOKEN, EngineUnderTest, running
from tests.support.ledger_rows import put_job
from tests.support.tiny_gemma import write_tiny_gemma
from tests.support.waiting import until

_TUNED = "ft:tiny-gemma:fabula:x:AbC123xy"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    """An engine with a tuned model that it did not have to train."""
    root = tmp_path_factory.mktemp("exports")
    home = root / "home"
    (home / "adapters").mkdir(parents=True)
    tunable = model.load(weights.convert(write_tiny_gemma(root / "tiny.gguf"), root / "w", print), device.cpu(), 4, 8.0)
    tunable.initialise(0)
    gguf_file.write_adapter(home / "adapters" / "AbC123xy.gguf", tunable.adapter())
    EngineStore(home / "engine.db").add(TunedModel(_TUNED, 1, TINY, "adapters/AbC123xy.gguf", "completion", None, None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FABULA_TRAINER_PRIORITY", "normal")
        with running(home, root / "tiny.gguf") as started:
            yield started


@pytest.fixture(autouse=True)
def _connected(engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABULA_ENGINE_URL", engine.url.removesuffix("/v1"))
    monkeypatch.setenv("FABULA_ENGINE_TOKEN", TOKEN)


def test_a_model_is_exported_in_a_form_shown_with_its_proof_and_deleted(store: Store, engine: EngineUnderTest) -> None:
    job_id = put_job(
        store, status="succeeded", provider="engine", base_model=TINY, fine_tuned_model=_TUNED, stop=' "END"'
    )
    at = visit("training", training_export=job_id)
    field(at, "training_export_form").set_value("gguf-adapter")
    click(at, "training_export_start")
    assert not trouble(at)
    until(lambda: "Compared with the trained model in llama.cpp" in words(again(at)), "the export is ready")
    [export] = engine_exports.listed(cache.quick("engine"), _TUNED).exports
    assert {"adapter.gguf", "README.md", "Modelfile"} == {name for name, _ in export.files}
    card = engine_exports.file(store, Actor("a", "A", "admin"), cache.quick("engine"), job_id, export.id, "README.md")
    assert _TUNED in card.decode() and 'ends with `" \\"END\\""`' in card.decode() and "tiny.gguf" in card.decode()
    modelfile = (Path(export.path) / "Modelfile").read_text()
    assert modelfile.endswith('PARAMETER stop " \\"END\\""\n') and "tiny.gguf" in modelfile
    assert f"the same most likely next token in {percent(export.proof[0].same_top, 0)}" in words(at)
    assert "noticeably differently" not in words(at)
    saved = Path(export.path).parent / record.FILE
    read = json.loads(saved.read_text())
    saved.write_text(json.dumps({**read, "proof": [{**read["proof"][0], "mean_kl": 0.23}]}))
    until(lambda: "KL divergence 0.23 on average" in words(again(at)), "the changed proof is read")
    assert "noticeably differently" in words(at)
    with pytest.raises(NotAllowed):
        engine_exports.start(store, Actor("v", "V", "viewer"), cache.quick("engine"), job_id, _TUNED, "peft")
    click(at, f"training_export_remove_{export.id}")
    assert "Compared with" not in words(again(at))
    assert not any((engine.home / "exports").iterdir())
    assert Path(export.path).parent.parent == engine.home / "exports"
