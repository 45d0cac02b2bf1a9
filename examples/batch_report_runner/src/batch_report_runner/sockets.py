"""The WebSocket of a batch's progress."""

import asyncio
import contextlib
import time
from uuid import UUID

import psycopg
from fastapi import APIRouter, WebSocket
from psycopg_pool import PoolTimeout
from starlette.websockets import WebSocketDisconnect

from . import tokens
from .errors import TokenError
from .limits import SocketLimit
from .metrics import Metrics
from .settings import Settings
from .watching import Hub, ProgressSource

router = APIRouter()
NOT_ALLOWED, TOO_MANY, TOO_SLOW, TRY_AGAIN = 4003, 4029, 4008, 1013


@router.websocket("/api/batch/{batch_id}/progress")
async def progress(socket: WebSocket, batch_id: str, token: str = "") -> None:
    """Tell a batch's progress until it has ended. Refused only once accepted: before, a client would see a mere 403."""
    await socket.accept()
    state = socket.app.state
    metrics: Metrics = state.metrics
    limit: SocketLimit = state.socket_limit
    hub: Hub = state.hub
    try:
        watched = UUID(batch_id)
        user = await _user(socket, watched, token)
    except (TokenError, ValueError):
        await socket.close(NOT_ALLOWED, "the token is not good for this batch")
        return
    except (psycopg.Error, PoolTimeout):
        await socket.close(TRY_AGAIN, "the database cannot be reached just now")
        return
    if not limit.open(user):
        await socket.close(TOO_MANY, "too many sockets are open; try again in 10 seconds")
        return
    metrics.sockets.inc()
    try:
        await _serve(socket, hub, watched)
    finally:
        metrics.sockets.dec()
        limit.close(user)


async def _user(socket: WebSocket, batch_id: UUID, token: str) -> str:
    """Return whose token it is. Raises TokenError, also when the batch is another's."""
    settings: Settings = socket.app.state.settings
    user = tokens.check(settings.secret, token, batch_id, time.time())
    source: ProgressSource = socket.app.state.source
    if await source.owner(batch_id) != user:
        raise TokenError("the batch is another's")
    return user


async def _serve(socket: WebSocket, hub: Hub, batch_id: UUID) -> None:
    """Send until the end, or until the client is gone, which only reading tells."""
    sending = asyncio.create_task(hub.watch(batch_id, socket))
    reading = asyncio.create_task(_until_gone(socket))
    try:
        await asyncio.wait([sending, reading], return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            return
        if sending.exception() is None:
            told = sending.result()
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(1):
                    await socket.close(1000 if told else TOO_SLOW)
    finally:
        for task in (sending, reading):
            task.cancel()
        await asyncio.gather(sending, reading, return_exceptions=True)


async def _until_gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
