"""The data of a download button stays available for a while after the button is redrawn."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from streamlit import runtime
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.runtime.media_file_storage import MediaFileStorageError
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

from pages.ui import streamlit_patches


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> MediaFileManager:
    """Streamlit's file storage, as in the server."""
    manager = MediaFileManager(MemoryMediaFileStorage("/media"))
    monkeypatch.setattr(runtime, "get_instance", lambda: SimpleNamespace(media_file_mgr=manager))
    return manager


def _drawn(files: MediaFileManager) -> str:
    """A run that draws the button; returns the URL that the browser requests on a click."""
    offered = files.add_deferred(lambda: b"text", "text/plain", "1.0")
    files.remove_orphaned_files()
    return offered


def test_streamlit_alone_forgets_at_once(files: MediaFileManager) -> None:
    old, _new = _drawn(files), _drawn(files)
    with pytest.raises(MediaFileStorageError):
        files.execute_deferred(old)


def test_what_was_offered_before_is_still_there(files: MediaFileManager) -> None:
    streamlit_patches.keep_for_a_while()
    offered = [_drawn(files) for _ in range(3)]
    assert all(files.execute_deferred(one).startswith("/media/") for one in offered)


def test_it_is_swept_once_in_a_while(files: MediaFileManager, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    streamlit_patches.keep_for_a_while()
    old, new = _drawn(files), _drawn(files)
    now += 60
    files.remove_orphaned_files()
    assert files.execute_deferred(new)
    with pytest.raises(MediaFileStorageError):
        files.execute_deferred(old)
