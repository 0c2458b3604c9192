"""Why a text ended: the words of all providers folded into one vocabulary, for rows, streams and batches.

`stop` (by itself, or at a stop sequence), `length` (at a limit of tokens), `content_filter`, `refusal`, `tool_calls`,
`error`. None: the provider did not say, or not in a way that can be read; of a stream that the provider has ended,
`unknown`. A word that is in no table stays what it is.

Sources: API references of OpenAI, Azure, Gemini (`Candidate.FinishReason`), Anthropic (`stop_reason`), Mistral, Cohere,
Bedrock (Converse, Titan), DeepSeek, Zhipu, Moonshot, MiniMax, Together, Hugging Face TGI, vLLM, SGLang, Ollama,
llama.cpp, LM Studio.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

UNKNOWN = "unknown"
"""How a stream ended that is over, when the provider has not said why."""

_SPELLINGS: Mapping[str, str] = {
    "stop": (
        "stop stopped stop_sequence stop_sequences stop_token stop_word word eos eos_token eog end end_turn endoftext"
        " end_of_text end_of_turn im_end complete completed completion finish finished done normal natural"
        " eos_token_found eos_found stop_string_found success succeed succeeded eos_id stop_str stop_token_id"
        " natural_stop stopped_eos stopped_word"
    ),
    "length": (
        "length max_tokens max_token max_length max_output_tokens max_new_tokens max_completion_tokens token_limit"
        " limit model_length context_length context_length_exceeded model_context_window_exceeded max_output"
        " max_tokens_exceeded maximum_tokens max_total_tokens max_new_token max_seq_len max_model_len"
        " max_context_length context_window_exceeded output_limit stopped_limit"
        " max_tokens_reached max_predicted_tokens_reached context_length_reached error_limit incomplete truncated"
    ),
    "content_filter": (
        "content_filter content_filtered content_filtering filter filtered safety recitation blocklist"
        " prohibited_content spii sensitive guardrail guardrail_intervened error_toxic image_safety language"
        " content_policy_violation image_prohibited_content responsible_ai moderated"
        " content_policy moderation policy_violation data_inspection_failed"
    ),
    "refusal": "refusal refused",
    "tool_calls": "tool_calls tool_call tool_use function_call malformed_function_call unexpected_tool_call",
    "error": (
        "error failed failure network_error insufficient_system_resource timeout abort aborted cancelled canceled"
        " user_cancel user_stopped model_unloaded malformed_response"
    ),
}
_UNSAID = frozenset({"", "null", "none", "unspecified", "unknown", "undefined", "nan"})
_FOLDED = {word.replace("_", ""): name for name, words in _SPELLINGS.items() for word in words.split()}
_LONGEST = 30  # characters, as the tables have it


def normalized(ending: object) -> str | None:
    """Why a text ended, in this module's vocabulary.

    Case, hyphens, and the name of an enumeration (`FinishReason.STOP`, `FINISH_REASON_STOP`) do not matter. An object
    is read by its `type` (SGLang: `{"type": "length", "length": 16}`).
    """
    if isinstance(ending, dict):
        ending = ending.get("type") or ending.get("reason")
    return _folded(ending) if isinstance(ending, str) else None


@lru_cache(maxsize=256)
def _folded(ending: str) -> str | None:
    if ending in ("</s>", "<|end|>"):
        return "stop"
    word = re.sub(r"[^a-z0-9]+", "_", ending.lower().strip()).strip("_")
    word = re.sub(r"^(finish|stop)_?reason_", "", word)
    letters = word.replace("_", "")
    return None if letters in _UNSAID else _FOLDED.get(letters, word[:_LONGEST])
