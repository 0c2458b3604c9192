"""One OpenAI-compatible client for every endpoint: the engine, OpenAI, and other servers with the same API.

Start with `Registry` (which endpoints are configured) and `Client` (the calls to one endpoint).
"""

from core.providers.client import Client
from core.providers.registry import Registry
from core.providers.retry import RetryPolicy
from core.providers.schemas import (
    Choice,
    Completion,
    CompletionRequest,
    Health,
    JobRequest,
    ModelInfo,
    Provider,
    RemoteCheckpoint,
    RemoteEvent,
    RemoteJob,
    StreamFacts,
)
from core.providers.stream import TextStream

__all__ = [
    "Choice",
    "Client",
    "Completion",
    "CompletionRequest",
    "Health",
    "JobRequest",
    "ModelInfo",
    "Provider",
    "Registry",
    "RemoteCheckpoint",
    "RemoteEvent",
    "RemoteJob",
    "RetryPolicy",
    "StreamFacts",
    "TextStream",
]
