"""The launcher: `streamlit run app.py`. It starts the worker and the engine with the server, and stops them with it."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import streamlit as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core import file_permissions, gc_tuning, logs, team_mode
from core.errors import BadSettings
from core.jobs.engine_supervisor import EngineProcess
from core.jobs.worker import Worker
from core.providers import engine_endpoint
from core.settings import Settings, exit_with
from pages.ui import live_updates, open_tabs, server_routes, server_setup, streamlit_patches, web_security
from pages.ui.story import guest_routes
from pages.ui.story.guest_server import GuestServer

_FRAME = Path(__file__).parent / "pages" / "frame.py"


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[dict[str, Any]]:
    """Start and stop worker and engine with the server. Each starts in its own thread, so that pages respond
    immediately.

    Both save their work when they are stopped.
    """
    logs.configure(logging.WARNING)
    settings = Settings.from_env()
    logs.set_format(settings.log_format)
    file_permissions.keep_private(settings.home)
    worker, engine = Worker(settings), EngineProcess(settings)
    guests = GuestServer(settings.guest_port) if settings.guest_port is not None else None
    engine.start()
    worker.start()
    if guests is not None:
        guests.start()
    gc_tuning.freeze_long_lived()
    streamlit_patches.keep_for_a_while()
    streamlit_patches.close_left_sessions()
    streamlit_patches.limit_scripts()
    streamlit_patches.check_files_rarely()
    try:
        async with anyio.create_task_group() as tasks:
            if settings.mode == "team":
                tasks.start_soon(open_tabs.close_ended, settings)
            tasks.start_soon(live_updates.rerun_changed)
            yield {"settings": settings, "worker": worker}
            tasks.cancel_scope.cancel()
    finally:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, engine.stop)
            group.start_soon(anyio.to_thread.run_sync, worker.stop)
            if guests is not None:
                group.start_soon(anyio.to_thread.run_sync, guests.stop)


async def health(_request: Request) -> JSONResponse:
    """`GET /api/health`: whether the server answers, whether its worker accepts work, and its engine's state."""
    state = app.state
    return JSONResponse(
        {
            "status": "ok",
            "worker": "up" if state["worker"].wait_until_ready(0) else "starting",
            "engine": engine_endpoint.read(state["settings"]).state,
        }
    )


def check_start() -> None:
    """Check before the server starts: if there are faults, print a sentence for each and end the process."""
    settings = Settings.load_or_exit()
    server_setup.use_secrets_file(os.environ.get("FABULA_SECRETS_FILE", ""))
    try:
        team_mode.check(settings, server_setup.read())
    except BadSettings as exc:
        exit_with(exc)
    if settings.mode == "local":
        server_setup.keep_to_this_machine()


check_start()
app = st.App(
    _FRAME,
    lifespan=lifespan,
    routes=[Route("/api/health", health), *server_routes.ROUTES, *guest_routes.routes()],
    middleware=web_security.layers(Settings.from_env(), server_setup.read(), server_setup.other_origins()),
)
