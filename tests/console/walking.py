"""Follow the console's links from the dashboard, as a reader would: a few pages of each kind, or all."""

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urldefrag, urljoin, urlsplit

from playwright.sync_api import Page

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


def kind_of(url: str) -> str:
    """The path of a page without what tells one thing from another."""
    return _ID.sub("*", urlsplit(url).path)


def walk(page: Page, base: str, *, of_a_kind: int, at_most: int, refusals: bool = False) -> Iterator[str]:
    """Load one page after the other, `of_a_kind` of each kind; yields the kind of each once it is loaded.

    Fails where a page cannot be had; with `refusals` one may answer that it does not understand what was asked.
    `page` shows the page while the caller looks at it.
    """
    todo, seen, counts = [f"{base}/"], {f"{base}/"}, Counter[str]()
    while todo and sum(counts.values()) < at_most:
        url = todo.pop(0)
        kind = kind_of(url)
        if counts[kind] >= of_a_kind:
            continue
        counts[kind] += 1
        answer = page.goto(url, wait_until="load")
        assert answer is not None
        assert answer.status < 400 or (refusals and answer.status == 422), f"{url}: {answer.status}, linked on a page"
        links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.getAttribute('href'))")
        for link in links:
            target = urldefrag(urljoin(url, link)).url
            if target.startswith(f"{base}/") and target not in seen:
                seen.add(target)
                todo.append(target)
        yield kind
