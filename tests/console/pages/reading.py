"""A person who reads the pages of the console and sends their forms, without a browser."""

import html
import re

import httpx


class Reader:
    """A person who reads pages and sends their forms."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, status: int = 200) -> str:
        """Open a page; returns its HTML."""
        answer = await self.client.get(path)
        assert answer.status_code == status, f"{path}: {answer.status_code}\n{answer.text}"
        return answer.text

    async def send(self, page: str, **typed: str) -> httpx.Response:
        """Send the page's form with what was typed."""
        found = re.search(r'<form[^>]*method="post" action="(/[^"]*)">(.*?)</form>', page, re.DOTALL)
        assert found, page
        fields: dict[str, list[str]] = {}
        for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', found[2]):
            fields.setdefault(name, []).append(html.unescape(value))
        return await self.client.post(html.unescape(found[1]), data=fields | typed)

    async def done(self, page: str, **typed: str) -> str:
        """Send the page's form; returns the page to which it leads, with its note."""
        answer = await self.send(page, **typed)
        assert answer.status_code == 303, answer.text
        return await self.get(answer.headers["location"])


def links(page: str) -> set[str]:
    """The addresses to which a page leads."""
    return {html.unescape(href) for href in re.findall(r'href="([^"#][^"]*)"', page)}


def note(page: str) -> str:
    """What a page tells about the action before it."""
    found = re.search(r"data-toast>([^<]*)<", page)
    return html.unescape(found[1]) if found else ""


def line(page: str) -> str:
    """The command line that a page shows."""
    found = re.search(r'<p class="line">.*?<code>(.*?)</code>', page)
    assert found, page
    return html.unescape(found[1])
