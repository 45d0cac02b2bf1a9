"""What all tests share."""

import pytest_asyncio
from books import Books


@pytest_asyncio.fixture
async def books(cb_pool):
    """The shop's books, with plenty of stock and credit in them."""
    return await Books(cb_pool).open()
