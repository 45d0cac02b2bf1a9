"""Reads an HTML page as strictly as a machine can: every tag closed, in its place; what it loads, says and shows."""

import re
from collections import defaultdict
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr", "line", "rect", "path"}


class Page(HTMLParser):
    """tags: name -> attributes of each; tables: caption -> rows of cells; titles: of the charts' strips."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.tags: dict[str, list[dict[str, str | None]]] = defaultdict(list)
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag].append(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in {"td", "th", "caption"}:
            self._cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag].append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag == "rect":  # the one void tag here that may have a title in it
            return
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another tag"
        if tag in {"td", "th"} and self._cell is not None:
            self.tables[-1][1][-1].append(" ".join("".join(self._cell).split()))
        elif tag == "caption" and self._cell is not None:
            self.tables[-1] = (" ".join("".join(self._cell).split()), self.tables[-1][1])

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if not self._open or self._open[-1] != "style":
            self.words.extend(data.split())

    @property
    def said(self) -> str:
        """All that it says, with single spaces."""
        return " ".join(self.words)

    def table(self, beginning: str) -> list[list[str]]:
        """The rows of the table whose caption begins so."""
        return next(rows for caption, rows in self.tables if caption.startswith(beginning))

    def outside(self) -> list[str]:
        """What it would load or run."""
        loaders = [tag for tag in ("script", "link", "img", "iframe", "object", "embed") if self.tags[tag]]
        named = [
            v for all_of in self.tags.values() for a in all_of for k, v in a.items() if k in {"src", "srcset", "href"}
        ]
        style = re.findall(r"@import[^;]*|url\([^)]*\)|https?:[^\s\"']*", self.text)
        return loaders + [v for v in named if v and not v.startswith("#")] + style
