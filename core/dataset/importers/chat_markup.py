"""Conversations written out as one text, with the marks of a chat template between the turns. Pure.

Such texts are what trainers of a single `text` column read: ChatML (Qwen), Llama 2 and 3, Gemma, Zephyr, Alpaca and
Vicuna, `### Human:` (Guanaco), and the `chosen` and `rejected` of HH-RLHF.
"""

from __future__ import annotations

import re

_START = r"(?:<s>|<bos>|<\|begin_of_text\|>|\s)*"
_NAMES = {
    **dict.fromkeys(("human", "user", "instruction", "input", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "response", "output", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "ipython"), "tool"),
}
# The mark in front of a turn of each template, with the name of the speaker in a group; the more certain first.
_MARKS = tuple(
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
_END = re.compile(r"(?:\s|</s>|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<\|endoftext\|>|<eos>)*$")
_LLAMA2 = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=(?:</s>|<s>|\s)*\[INST\]|$)", re.DOTALL)
_LLAMA2_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)
_LONGEST_PREAMBLE = 400  # characters: Alpaca's and Vicuna's sentence in front of the first turn


def turns(text: str) -> list[dict[str, str]] | None:
    """The turns of such a text, each with `speaker` and `text`; None: it is none, or it does not end with an answer."""
    found = _llama2(text)
    if found is None:
        found = next((parted for mark in _MARKS if (parted := _split(text, mark)) is not None), None)
    if found is None or found[-1]["speaker"] != "assistant" or not found[-1]["text"]:
        return None
    return found if any(turn["speaker"] == "user" for turn in found) else None


def _split(text: str, mark: re.Pattern[str]) -> list[dict[str, str]] | None:
    """The turns between the marks of one template; those of one speaker in a row joined (Alpaca's input)."""
    marks = list(mark.finditer(text))
    if len(marks) < 2:
        return None
    before = re.sub(f"^{_START}", "", text[: marks[0].start()]).strip()
    if len(before) > _LONGEST_PREAMBLE:
        return None
    found: list[dict[str, str]] = [{"speaker": "system", "text": before}] if before else []
    ends = [one.start() for one in marks[1:]] + [len(text)]
    for one, end in zip(marks, ends, strict=True):
        role, content = _NAMES[one[1].lower()], _END.sub("", text[one.end() : end])
        if found and found[-1]["speaker"] == role:
            found[-1]["text"] = "\n".join(filter(None, (found[-1]["text"], content)))
        else:
            found.append({"speaker": role, "text": content})
    return found


def _llama2(text: str) -> list[dict[str, str]] | None:
    if not re.match(rf"{_START}\[INST\]", text):
        return None
    found: list[dict[str, str]] = []
    for asked, said in _LLAMA2.findall(text):
        if not found and (system := _LLAMA2_SYSTEM.match(asked)):
            found.append({"speaker": "system", "text": system[1].strip()})
            asked = asked[system.end() :]
        found += [
            {"speaker": "user", "text": asked.strip()},
            {"speaker": "assistant", "text": _END.sub("", said).strip()},
        ]
    return found
