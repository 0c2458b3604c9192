"""Finds out which files of a model on Hugging Face or ModelScope are needed, with their sizes and checksums.

`HF_ENDPOINT` (a mirror), `HF_TOKEN` and the usual proxy variables are honoured.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers

from core.engine.bases.record import Source
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

MODELSCOPE_ENDPOINT = "https://www.modelscope.cn"
"""The default; `MODELSCOPE_ENDPOINT` overrides it."""
_TIMEOUT_S = 30.0
# Other files in a repository (other formats, images, scripts) are not needed.
_WEIGHTS = re.compile(r"(model|pytorch_model|consolidated)?[^/]*\.safetensors")
_FOLDER_FILES = re.compile(
    r"config\.json|generation_config\.json|model\.safetensors\.index\.json|tokenizer\.json|tokenizer_config\.json|"
    r"special_tokens_map\.json|chat_template\.(json|jinja)|README\.md|LICEN[CS]E[^/]*"
)
# For a repository with only GGUF files, the first of these is chosen; the most common compromise comes first.
_QUANTISATIONS = ("Q4_K_M", "Q5_K_M", "Q8_0", "Q6_K", "Q4_0", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file to download.

    Attributes:
        size: size in bytes; None if the hub did not state it.
        sha256: SHA-256 of the content; "" if the hub did not state it.
        git_oid: git's SHA-1 of the content, for small files on Hugging Face; "" if the hub did not state it.
    """

    path: str
    url: str
    size: int | None
    sha256: str = ""
    git_oid: str = ""

    @property
    def has_checksum(self) -> bool:
        """Whether the hub provides a checksum."""
        return bool(self.sha256 or self.git_oid)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """The files to download for a model.

    Attributes:
        revision: the commit.
        headers: request headers for its files, including the token.
        gated_at: page where its terms can be accepted; "" if there are none.
    """

    revision: str
    licence: str
    files: tuple[RemoteFile, ...]
    headers: Mapping[str, str]
    gated_at: str

    @property
    def weight_bytes(self) -> int:
        """Total size of the weights, as far as the hub states it."""
        return sum(file.size or 0 for file in self.files if file.path.endswith((".safetensors", ".gguf")))

    @property
    def has_checksums(self) -> bool:
        """Whether the hub provides a checksum for every file."""
        return all(file.has_checksum for file in self.files)


def look_up(source: Source, repo: str, revision: str) -> RemoteModel:
    """Look up which files of a model to download.

    Raises:
        UnusableModel: the hub cannot be reached, does not have the model, or the model has no usable files.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise _unreachable(msg("HF_HUB_OFFLINE is set"))
    return _on_modelscope(repo, revision) if source == "modelscope" else _on_hugging_face(repo, revision)


def _on_hugging_face(repo: str, revision: str) -> RemoteModel:
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    page = f"{endpoint}/{repo}"
    try:
        found = HfApi(endpoint=endpoint).model_info(
            repo, revision=revision or None, files_metadata=True, timeout=_TIMEOUT_S
        )
    except GatedRepoError as exc:
        raise gated(repo, page) from exc
    except (RepositoryNotFoundError, HFValidationError) as exc:
        raise _unknown(repo, msg("If it is private, set HF_TOKEN to a token that may read it, and restart.")) from exc
    except RevisionNotFoundError as exc:
        raise _unknown(f"{repo}@{revision}", msg("Leave the revision out for the newest one.")) from exc
    except HfHubHTTPError as exc:
        raise refused(exc.response.status_code) from exc
    except (httpx2.HTTPError, OSError) as exc:
        raise _unreachable(str(exc)) from exc
    files = tuple(
        RemoteFile(
            one.rfilename,
            hf_hub_url(repo, one.rfilename, revision=found.sha, endpoint=endpoint),
            one.lfs.size if one.size is None and one.lfs else one.size,
            one.lfs.sha256 if one.lfs else "",
            "" if one.lfs else one.blob_id or "",
        )
        for one in found.siblings or ()
    )
    card = found.card_data
    licence = str((card.get("license_name") or card.get("license") or "") if card is not None else "")
    return RemoteModel(
        found.sha or "main", licence, _needed(repo, files), build_hf_headers(), page if found.gated else ""
    )


def _on_modelscope(repo: str, revision: str) -> RemoteModel:
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT", MODELSCOPE_ENDPOINT).rstrip("/")
    revision = revision or "master"
    token = os.environ.get("MODELSCOPE_API_TOKEN")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    address = f"{endpoint}/api/v1/models/{repo}"
    try:
        with httpx2.Client(headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as client:
            listed = client.get(f"{address}/repo/files", params={"Revision": revision, "Recursive": "true"})
            if listed.status_code in (401, 403):
                raise gated(repo, f"{endpoint}/models/{repo}")
            if listed.status_code == 404:
                named = repo if revision == "master" else f"{repo}@{revision}"
                raise _unknown(named, msg("If it is private, set MODELSCOPE_API_TOKEN, and restart."))
            if not listed.is_success:
                raise refused(listed.status_code)
            body = listed.json()
            about = client.get(address)
            model: dict[str, Any] = (about.json().get("Data") or {}) if about.is_success else {}
    except (httpx2.HTTPError, OSError, ValueError) as exc:
        if isinstance(exc, UnusableModel):
            raise
        raise _unreachable(str(exc)) from exc
    files = tuple(
        RemoteFile(
            one["Path"],
            f"{endpoint}/models/{repo}/resolve/{quote(revision, safe='')}/{quote(one['Path'])}",
            one["Size"] if isinstance(one.get("Size"), int) else None,
            str(one.get("Sha256") or ""),
        )
        for one in (body.get("Data") or {}).get("Files") or ()
        if one.get("Type") != "tree"
    )
    return RemoteModel(revision, str(model.get("License") or ""), _needed(repo, files), headers, "")


def _needed(repo: str, files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """Select the files of a folder with weights and tokenizer, or a single GGUF file."""
    weights = [file for file in files if _WEIGHTS.fullmatch(file.path)]
    if weights:
        sharded = [file for file in weights if file.path.startswith("model")]
        others = [file for file in files if _FOLDER_FILES.fullmatch(file.path)]
        return (*others, *(sharded or weights))
    whole = [file for file in files if file.path.endswith(".gguf") and "/" not in file.path and "-of-" not in file.path]
    for quantisation in _QUANTISATIONS:
        for file in whole:
            if quantisation in file.path.upper():
                return (file,)
    if len(whole) == 1:
        return (whole[0],)
    raise UnusableModel(
        "no_weights",
        msg("{repo} has neither .safetensors files nor a supported GGUF file.", repo=repo),
        msg("Choose a repository with one of these, or download a file yourself and add it by its path."),
    )


def gated(repo: str, page: str) -> UnusableModel:
    """The error for a model whose terms have not been accepted."""
    return UnusableModel(
        "gated",
        msg("{repo} can only be downloaded by people who have accepted its terms.", repo=repo),
        msg("Accept the terms at {page}, set HF_TOKEN to a token of that account, and restart.", page=page),
    )


def refused(status: int) -> UnusableModel:
    """The error for an unexpected status."""
    return UnusableModel(
        "hub_refused",
        msg("The hub answered with status {status}.", status=status),
        msg("Try again later, or add a file or a folder."),
    )


def _unknown(repo: str, next_step: str) -> UnusableModel:
    return UnusableModel("no_such_model", msg("The hub has no model {repo}.", repo=repo), next_step)


def _unreachable(detail: str) -> UnusableModel:
    return UnusableModel(
        "offline",
        msg("The hub cannot be reached: {detail}.", detail=detail[:200]),
        msg(
            "Check the network and HTTPS_PROXY, or set HF_ENDPOINT to a mirror. Without a network, add a file or a "
            "folder."
        ),
    )
