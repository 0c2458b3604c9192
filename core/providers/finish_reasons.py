"""Normalises the finish reasons of all providers to one vocabulary, for rows, streams and batches.

`stop` (by itself or at a stop sequence), `length` (token limit), `content_filter`, `refusal`, `tool_calls`, `error`.
None: the provider gave none that can be read; for a completed stream, `unknown`. Other values are kept unchanged.

Sources: API references of OpenAI, Azure, Gemini (`Candidate.FinishReason`), Anthropic (`stop_reason`), Mistral, Cohere,
Bedrock (Converse, Titan), DeepSeek, Zhipu, Moonshot, MiniMax, Together, Hugging Face TGI, vLLM, SGLang, Ollama,
llama.cpp, LM Studio.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

UNKNOWN = "unknown"
"""Finish reason of a completed stream if the provider gave none."""

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
_NONE_VALUES = frozenset({"", "null", "none", "unspecified", "unknown", "undefined", "nan"})
_CANONICAL = {word.replace("_", ""): name for name, words in _SPELLINGS.items() for word in words.split()}
_MAX_CHARS = 30  # length of the database column


def normalized(reason: object) -> str | None:
    """Normalise a finish reason.

    Case, hyphens and enum prefixes (`FinishReason.STOP`, `FINISH_REASON_STOP`) are ignored. Of an object, its `type` is
    used (SGLang: `{"type": "length", "length": 16}`).
    """
    if isinstance(reason, dict):
        reason = reason.get("type") or reason.get("reason")
    return _normalized_word(reason) if isinstance(reason, str) else None


@lru_cache(maxsize=256)
def _normalized_word(reason: str) -> str | None:
    if reason in ("</s>", "<|end|>"):
        return "stop"
    word = re.sub(r"[^a-z0-9]+", "_", reason.lower().strip()).strip("_")
    word = re.sub(r"^(finish|stop)_?reason_", "", word)
    letters = word.replace("_", "")
    return None if letters in _NONE_VALUES else _CANONICAL.get(letters, word[:_MAX_CHARS])
