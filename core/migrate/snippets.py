"""What changes in a program: the address and the key, for each SDK that `bench/conformance.py` tries. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

TOKEN_VARIABLE = "FABULA_ENGINE_TOKEN"
"""The environment variable with the engine's key, in every snippet."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A complete program for one SDK. `language`: what it is highlighted as."""

    sdk: str
    language: Literal["python", "javascript", "bash"]
    code: str


def snippets(base_url: str, model: str) -> tuple[Snippet, ...]:
    """One program per SDK that asks the engine at `base_url` (with `/v1`) for `model`.

    The address and the model are quoted for each language, so they can have any characters.
    """
    url, name = json.dumps(base_url), json.dumps(model)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    values = {"url": url, "name": name, "openai_name": json.dumps(f"openai/{model}"), "key": TOKEN_VARIABLE}
    values |= {"shell_url": _shell(base_url), "shell_chat_url": _shell(f"{base_url}/chat/completions")}
    values |= {"shell_body": _shell(body)}
    return tuple(Snippet(sdk, language, template.format(**values)) for sdk, language, template in _TEMPLATES)


def _shell(text: str) -> str:
    """A text in single quotes for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


_TEMPLATES: tuple[tuple[str, Literal["python", "javascript", "bash"], str], ...] = (
    (
        "OpenAI Python",
        "python",
        """import os

from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["{key}"])
answer = client.chat.completions.create(
    model={name},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)
""",
    ),
    (
        "OpenAI Node",
        "javascript",
        """import OpenAI from "openai";

const client = new OpenAI({{ baseURL: {url}, apiKey: process.env.{key} }});
const answer = await client.chat.completions.create({{
  model: {name},
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(answer.choices[0].message.content);
""",
    ),
    (
        "curl",
        "bash",
        """curl {shell_chat_url} \\
  -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d {shell_body}
""",
    ),
    (
        "LangChain",
        "python",
        """import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(model={name}, base_url={url}, api_key=os.environ["{key}"])
print(model.invoke("Hello").content)
""",
    ),
    (
        "LlamaIndex",
        "python",
        """import os

from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    model={name},
    api_base={url},
    api_key=os.environ["{key}"],
    is_chat_model=True,
)
print(model.complete("Hello").text)
""",
    ),
    (
        "Vercel AI SDK",
        "javascript",
        """import {{ createOpenAI }} from "@ai-sdk/openai";
import {{ generateText }} from "ai";

const openai = createOpenAI({{ baseURL: {url}, apiKey: process.env.{key} }});
const {{ text }} = await generateText({{ model: openai.chat({name}), prompt: "Hello" }});
console.log(text);
""",
    ),
    (
        "LiteLLM",
        "python",
        """import os

import litellm

answer = litellm.completion(
    model={openai_name},
    api_base={url},
    api_key=os.environ["{key}"],
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)
""",
    ),
    (
        "Environment",
        "bash",
        """export OPENAI_BASE_URL={shell_url}
export OPENAI_API_KEY="${key}"
""",
    ),
)
