"""The launcher: `streamlit run app.py`. It starts the worker and the engine with the server, and stops them with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import streamlit as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core import file_permissions, gc_tuning, logs
from core.jobs.engine_supervisor import EngineProcess
from core.jobs.worker import Worker
from core.providers import engine_endpoint
from core.settings import Settings
from pages.ui import streamlit_patches

_FRAME = Path(__file__).parent / "pages" / "frame.py"


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[dict[str, Any]]:
    """Both start in threads of their own, so that pages answer at once; both save their work when they are stopped."""
    logs.configure(logging.WARNING)
    settings = Settings.load()
    file_permissions.keep_private(settings.home)
    worker, engine = Worker(settings), EngineProcess(settings)
    engine.start()
    worker.start()
    gc_tuning.freeze_long_lived()
    streamlit_patches.keep_for_a_while()
    streamlit_patches.close_left_sessions()
    try:
        yield {"settings": settings, "worker": worker}
    finally:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, engine.stop)
            group.start_soon(anyio.to_thread.run_sync, worker.stop)


async def health(_request: Request) -> JSONResponse:
    """`GET /api/health`: whether the server answers, whether its worker takes work, and how its engine is."""
    state = app.state
    return JSONResponse(
        {
            "status": "ok",
            "worker": "up" if state["worker"].wait_until_ready(0) else "starting",
            "engine": engine_endpoint.read(state["settings"]).state,
        }
    )


Settings.load_or_exit()  # before the server starts, so that a fault is a sentence and no traceback
app = st.App(_FRAME, lifespan=lifespan, routes=[Route("/api/health", health)])
