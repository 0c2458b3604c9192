"""The environment variables that child processes get: no provider keys, no database address."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Environment variables that the engine and its children get: system basics, thread and accelerator settings of the
# libraries, Fabula's own settings. Provider keys, the database URL and proxies are not passed on.
_ENGINE_NAMES = frozenset(
    [
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
        *("SYSTEMROOT", "VIRTUAL_ENV", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"),
    ]
)
_ENGINE_PREFIXES = (
    *("FABULA_", "LC_", "LD_", "DYLD_", "PYTHON", "XDG_", "MALLOC_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "OPENBLAS_"),
    *("GGML_", "LLAMA_", "TORCH", "PYTORCH_", "CUDA", "NVIDIA_", "HIP_", "VLLM_", "NCCL_"),
)
# Variables that only downloads of models need: mirror, token, proxies, certificates.
_HUB_NAMES = frozenset(
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"]
)
_HUB_PREFIXES = ("HF_", "HUGGING_FACE_HUB_", "MODELSCOPE_")
_BUCKET_PREFIX = "AWS_"
_SECRET = re.compile(r"(KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH|_URL)$", re.IGNORECASE)


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that the engine and its children need, without secrets."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _ENGINE_NAMES or name.startswith(_ENGINE_PREFIXES)) and not _SECRET.search(name)
    }


def hub_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that downloads from model hubs need, with the hubs' tokens."""
    return {
        name: value for name, value in environ.items() if name.upper() in _HUB_NAMES or name.startswith(_HUB_PREFIXES)
    }


def storage_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that the engine needs for a bucket that it shares with a cluster, with the keys."""
    if not environ.get("FABULA_RAY_STORAGE", "").strip().startswith("s3://"):
        return {}
    return {name: value for name, value in environ.items() if name.startswith(_BUCKET_PREFIX)}
