"""Much to store: in chunks, each made ready while the one before is being stored."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter
from typing import TypeVar

_Item = TypeVar("_Item")
_Ready = TypeVar("_Ready")
_Chunk = TypeVar("_Chunk")

CHUNK = 1_000
_TURN = 0.001  # seconds of making ready, after which what is being stored gets its turn


async def store_in_chunks(
    items: Iterator[_Item],
    size: int,
    make_ready: Callable[[_Item, int], _Ready],
    pack: Callable[[list[_Ready], int], _Chunk],
    store: Callable[[_Chunk], Awaitable[None]],
    on_stored: Callable[[int], object] | None = None,
) -> int:
    """Store all items in chunks of `size`, one after another; returns how many.

    `make_ready(item, its number)` and `pack(items made ready, number of the first)` run while `store(packed)` waits for
    the chunk before. Once a chunk is stored, `on_stored(how many are)` is called. What fails for one chunk leaves those
    before it stored, and told.
    """
    count = 0
    storing: asyncio.Future[None] | None = None
    while True:
        try:
            chunk = await _draw(items, size, make_ready, count)
            packed = pack(chunk, count) if chunk else None
        except asyncio.CancelledError:
            if storing is not None:
                storing.cancel()
            raise
        finally:
            if storing is not None:
                await storing
                if on_stored is not None:
                    on_stored(count)
        if packed is None:
            return count
        storing = asyncio.ensure_future(store(packed))
        count += len(chunk)


async def _draw(
    items: Iterator[_Item], size: int, make_ready: Callable[[_Item, int], _Ready], first: int
) -> list[_Ready]:
    """Draw at most `size` items and make them ready, with a pause for others now and then."""
    await asyncio.sleep(0)
    chunk: list[_Ready] = []
    turn_ends = perf_counter() + _TURN
    for number, item in enumerate(items, first):
        chunk.append(make_ready(item, number))
        if len(chunk) == size:
            break
        if perf_counter() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = perf_counter() + _TURN
    return chunk
