"""Parses conversations written as one text with chat template markup between the turns. Pure.

Such texts are used by trainers that read a single `text` column: ChatML (Qwen), Llama 2 and 3, Gemma, Zephyr, Alpaca
and Vicuna, `### Human:` (Guanaco), and the `chosen` and `rejected` of HH-RLHF.
"""

from __future__ import annotations

import re

_START = r"(?:<s>|<bos>|<\|begin_of_text\|>|\s)*"
_ROLES = {
    **dict.fromkeys(("human", "user", "instruction", "input", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "response", "output", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "ipython"), "tool"),
}
# Turn markers of each template, with the speaker's name as a group; the most specific first.
_TURN_MARKERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"<\|im_start\|>(system|user|assistant|tool)\n",
        r"<\|start_header_id\|>(system|user|assistant|ipython)<\|end_header_id\|>\n\n",
        r"<start_of_turn>(system|developer|user|model)\n",
        r"<\|(system|user|assistant|observation)\|>\s*",
        r"###\s*(System|Human|User|Assistant|Instruction|Input|Response|Output)\s*:\s*",
        r"(?:^|\n\n)(Human|Assistant): ",
        r"(?:^|\s|</s>)(SYSTEM|USER|ASSISTANT): ",
    )
)
_TURN_END = re.compile(r"(?:\s|</s>|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<\|endoftext\|>|<eos>)*$")
_LLAMA2 = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=(?:</s>|<s>|\s)*\[INST\]|$)", re.DOTALL)
_LLAMA2_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)
_MAX_PREAMBLE = 400  # characters; the introduction of Alpaca and Vicuna before the first turn


def turns(text: str) -> list[dict[str, str]] | None:
    """The turns of such a text, each with `speaker` and `text`. None: no markup, or it does not end with an answer."""
    result = _split_llama2(text)
    if result is None:
        result = next((parts for marker in _TURN_MARKERS if (parts := _split(text, marker)) is not None), None)
    if result is None or result[-1]["speaker"] != "assistant" or not result[-1]["text"]:
        return None
    return result if any(turn["speaker"] == "user" for turn in result) else None


def _split(text: str, marker: re.Pattern[str]) -> list[dict[str, str]] | None:
    """The turns between the markers of one template; consecutive turns of a speaker are joined (Alpaca's input)."""
    matches = list(marker.finditer(text))
    if len(matches) < 2:
        return None
    preamble = re.sub(f"^{_START}", "", text[: matches[0].start()]).strip()
    if len(preamble) > _MAX_PREAMBLE:
        return None
    result: list[dict[str, str]] = [{"speaker": "system", "text": preamble}] if preamble else []
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=True):
        role, content = _ROLES[match[1].lower()], _TURN_END.sub("", text[match.end() : end])
        if result and result[-1]["speaker"] == role:
            result[-1]["text"] = "\n".join(filter(None, (result[-1]["text"], content)))
        else:
            result.append({"speaker": role, "text": content})
    return result


def _split_llama2(text: str) -> list[dict[str, str]] | None:
    if not re.match(rf"{_START}\[INST\]", text):
        return None
    result: list[dict[str, str]] = []
    for question, answer in _LLAMA2.findall(text):
        if not result and (system := _LLAMA2_SYSTEM.match(question)):
            result.append({"speaker": "system", "text": system[1].strip()})
            question = question[system.end() :]
        result += [
            {"speaker": "user", "text": question.strip()},
            {"speaker": "assistant", "text": _TURN_END.sub("", answer).strip()},
        ]
    return result
