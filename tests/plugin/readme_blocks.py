"""Reads a document's fenced blocks: files to write, and commands with the output that the text shows."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ANYTHING = "..."
"""A shown line that stands for any number of lines."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"^# (\S+\.\w+)\n")
_RETRIES = (0, 10, 70)  # seconds after which the attempts of the tutorial's retry policy are due
_VOLATILE: Sequence[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\bworker \d+"), "worker <n>"),
    (re.compile(r"\b\d+ workers?\b"), "<n> workers"),
    (re.compile(r"\b\d+(\.\d+)? s of waiting"), "<seconds> s of waiting"),
    (re.compile(r"^ +\+(\d+)\.\d{2} s", re.MULTILINE), lambda found: f"+{_retry(int(found[1]))} s"),
)


def _retry(seconds: int) -> int:
    return max(due for due in _RETRIES if due <= seconds)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of the document at which the text begins."""

    language: str
    text: str
    line: int

    @property
    def file_name(self) -> str | None:
        """The name in a comment on the first line."""
        found = _FILE_NAME.match(self.text)
        return found and found[1]


@dataclass(frozen=True)
class Command:
    """A command line of a console block, and the lines that the text shows beneath it."""

    line: str
    shown: Sequence[str]
    where: str


def read_blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown document, in their order."""
    text = document.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in _FENCE.finditer(text)]


def commands(block: Block, document: Path) -> Iterator[Command]:
    """Yield the commands of a console block: each `$ ` line with the output until the next one."""
    lines = block.text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield Command(lines[start][2:], lines[start + 1 : end], f"{document.name}:{block.line + start}")


def steady(text: str) -> str:
    """Return output with what differs from run to run replaced: ids, parts of a second, the numbers of workers."""
    for pattern, replacement in _VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def difference(shown: Sequence[str], actual: str) -> str | None:
    """Return what of the shown lines is not in the actual output, None when it is as shown.

    Shown lines follow each other in the output, but for a line `...`, which stands for any number of lines. The first
    and the last line of the output must be shown, or such a line in their place.
    """
    wanted = [steady(line).rstrip() for line in shown]
    lines = [line.rstrip() for line in steady(actual).rstrip().splitlines()]
    place, gap = 0, False
    for line in wanted:
        if line == ANYTHING:
            gap = True
            continue
        found = next((i for i in range(place, len(lines)) if lines[i] == line), None) if gap else place
        if found is None or found >= len(lines) or lines[found] != line:
            return f"not found: {line!r} {'after' if gap else 'as'} line {place + 1}"
        place, gap = found + 1, False
    return None if gap or place == len(lines) else f"not shown: {lines[place]!r}"
