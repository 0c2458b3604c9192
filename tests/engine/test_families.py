"""Families by rule: for a tiny random model of each, the trainer, transformers and llama.cpp compute the same."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine.bases import check, llama_probe  # noqa: E402
from core.engine.chat_messages import ChatMessage  # noqa: E402
from core.engine.formats import folder_converter, gguf_file, hf_folder, tokens  # noqa: E402
from core.engine.formats.tokens import SegmentedExample  # noqa: E402
from core.engine.serving import chat  # noqa: E402
from core.engine.training.trainer import device, model, packing  # noqa: E402
from tests.support.tiny_folders import CONTEXT, FAMILIES  # noqa: E402

_LENGTH = 200  # tokens: longer than Gemma's window and Llama 3's original context
_PLACES = (5, 64, 120, _LENGTH)
_CONTEXTS = {  # beyond them the two programs compute differently
    "mistral": 128,  # its window
    "phi3": 150,  # its window
    "phi4-mini": 256,  # the original context of its longrope
}
_NEAR = 0.02  # nats; llama.cpp keeps keys, values and products as float16
_COUNT = 50  # compared next tokens
_ADAPTED_NEAR = 0.2  # the adapter is stored as float16, and makes some logits large


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family's name and a folder with a tiny model of it, converted."""
    folder = FAMILIES[request.param].write(tmp_path_factory.mktemp("family") / "model")
    folder_converter.convert(hf_folder.open_folder(folder), folder / "model.gguf")
    return request.param, folder


def _transformers(folder: Path, text: list[int]) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        logits: np.ndarray = torch.log_softmax(whole(torch.tensor([text])).logits[0].float(), dim=1).numpy()
    return logits


def _trainer(tunable: model.TunableModel, text: list[int]) -> np.ndarray:
    with torch.no_grad():
        hidden = tunable.hidden(torch.tensor([text]))[0]
        logits: np.ndarray = torch.log_softmax(tunable.logits(hidden), dim=1).numpy()
    return logits


def test_trainer_transformers_and_llama_cpp_have_the_same_probabilities(
    family: tuple[str, Path], tmp_path: Path
) -> None:
    name, folder = family
    tunable = model.load(folder, device.cpu(), 4, 8.0)
    tunable.initialise(0)
    words = tunable.head.shape[0]
    first = len(FAMILIES[name].special) + 10
    context = gguf_file.model_card(folder / "model.gguf").context_length
    assert context == _CONTEXTS.get(name, CONTEXT)
    length = min(_LENGTH, context - 1)  # llama.cpp adds a token to the longest one
    text = [first, *np.random.default_rng(1).integers(first, words, length - 1).tolist()]
    ours, theirs = _trainer(tunable, text), _transformers(folder, text)
    assert np.abs(ours - theirs).max() < _NEAR
    with llama_probe.loaded(folder / "model.gguf", threads=1) as probe:
        check.check_tokenizer(probe, folder)
        forced = probe.tokens("a")[-1]
        for place in (min(place, length) for place in _PLACES):
            served = probe.log_probabilities(text[:place], _COUNT, forced)
            difference = max(abs(float(ours[place - 1][token]) - value) for token, value in served.items())
            assert difference < _NEAR, f"after {place} tokens"
    learned = text[:24]
    _train(tunable, learned)
    adapted = _trainer(tunable, text)
    assert np.abs(adapted[-1] - ours[-1]).max() > 10 * _NEAR  # the adapter has an effect
    gguf_file.write_adapter(tmp_path / "adapter.gguf", tunable.adapter())
    with llama_probe.loaded(folder / "model.gguf", threads=1, adapter=tmp_path / "adapter.gguf") as probe:
        assert probe.greedy(learned[:4], 20) == learned[4:]
        served = probe.log_probabilities(text[:120], _COUNT, forced)
        difference = max(abs(float(adapted[119][token]) - value) for token, value in served.items())
        assert difference < _ADAPTED_NEAR
    again = model.load(folder, device.cpu(), 4, 8.0)
    again.load(gguf_file.read_adapter(tmp_path / "adapter.gguf"))
    assert np.abs(_trainer(again, text) - adapted).max() < _ADAPTED_NEAR


def test_texts_that_share_a_row_are_computed_as_if_they_were_alone(family: tuple[str, Path]) -> None:
    name, folder = family
    tunable = model.load(folder, device.cpu(), 4, 8.0)
    tunable.initialise(0)
    first, words, random = len(FAMILIES[name].special) + 10, tunable.head.shape[0], np.random.default_rng(2)
    texts = [
        tokens.Encoded(tuple(random.integers(first, words, length).tolist()), (False, *[True] * (length - 1)))
        for length in (9, 90, 20, 31)
    ]
    assert tunable.packs
    batch = packing.batch_tensors([texts[:3], texts[3:]])
    assert batch.places is not None
    with torch.no_grad():
        packed = tunable.hidden(batch.ids, batch.places).flatten(0, 1)[batch.predicting]
        alone = torch.cat([tunable.hidden(torch.tensor([text.tokens]))[0, :-1] for text in texts])
    assert batch.owners.tolist() == [number for number, text in enumerate(texts) for _ in text.tokens[1:]]
    assert batch.labels.tolist() == [token for text in texts for token in text.tokens[1:]]
    assert torch.allclose(packed, alone, atol=1e-3, rtol=1e-3)


def _train(tunable: model.TunableModel, text: list[int]) -> None:
    """Learn one text by heart."""
    optimizer = torch.optim.AdamW(tunable.parameters(), lr=0.02, weight_decay=0.0)
    ids, labels = torch.tensor([text]), torch.tensor(text[1:])
    for _ in range(60):
        optimizer.zero_grad()
        hidden = tunable.hidden(ids)[0][:-1]
        torch.nn.functional.cross_entropy(tunable.logits(hidden), labels).backward()
        optimizer.step()


class _Clock:
    """transformers' clock, on the day that the engine puts into templates that name one (docs/engine.md)."""

    @staticmethod
    def now() -> date:
        return date(2024, 7, 26)


_CONVERSATIONS = {
    "one turn": [("user", "Who could fly?")],
    "system": [("system", "Be brief."), ("user", "Who could fly?")],
    "two turns": [("user", "Who could fly?"), ("assistant", "The hero."), ("user", "会飞行?")],
}


@pytest.mark.parametrize("kind", _CONVERSATIONS)
def test_a_conversation_has_the_models_own_ids_in_training_and_serving(
    family: tuple[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", _Clock)
    name, folder = family
    card = gguf_file.model_card(folder / "model.gguf")
    chat_format = chat.format_for(card)
    assert isinstance(chat_format, chat.OwnTemplate)
    messages = [ChatMessage(role, text) for role, text in _CONVERSATIONS[kind]]
    raw = [{"role": item.role, "content": item.text} for item in messages]
    if name.startswith("mistral") and kind == "system":  # its template has no such role
        raw = [{"role": "user", "content": "Be brief.\n\nWho could fly?"}]
    own = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        raw, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    prompt = chat_format.prompt(messages)
    segments = chat_format.segments([*messages, ChatMessage("assistant", "The monster.")])
    with llama_probe.loaded(folder / "model.gguf", threads=1) as probe:
        served = probe.prompt_tokens(prompt)
        trained = tokens.encode(
            SegmentedExample(segments, eos=False), probe.tokens, card.bos, card.eos, card.adds_space
        )
        stop = probe.tokens(chat_format.stop)
    assert served == own
    assert list(trained.tokens[: len(served)]) == served
    learned = [token for token, is_trained in zip(trained.tokens, trained.trained, strict=True) if is_trained]
    assert "".join(text for text, is_trained in segments if is_trained).count("The monster.") == 1
    assert len(stop) == 1 and stop[0] in learned  # one token ends the turn, and it is learned


def test_text_of_a_message_cannot_begin_a_turn(family: tuple[str, Path]) -> None:
    name, folder = family
    card = gguf_file.model_card(folder / "model.gguf")
    chat_format = chat.format_for(card)
    assert chat_format is not None
    special = "".join(token for token in FAMILIES[name].special if token != "<unk>")
    assert chat_format.prompt([ChatMessage("user", f"a{special}b")]) == chat_format.prompt([ChatMessage("user", "ab")])
