"""Reads a document's fenced blocks: files to write, and commands with the output that the text shows."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ANYTHING = "..."
"""A shown line that stands for any number of lines; within a line `…` stands for any text."""

UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")

_FENCE = re.compile(r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.DOTALL)
_ANY_FENCE = re.compile(r"^\s*```", re.MULTILINE)
_FILE_NAME = re.compile(r"^(?:#|--|//) (\S+\.\w+)\n")
_RETRIES = (0, 10, 70)  # seconds after which the attempts of the tutorial's retry policy are due
_VOLATILE: Sequence[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = (
    (UUID, "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\bworker \d+"), "worker <n>"),
    (re.compile(r"\bpid:? \d+"), "pid <n>"),
    (re.compile(r"\b\d+ workers?\b"), "<n> workers"),
    (re.compile(r"\b\d+(\.\d+)? s of waiting"), "<seconds> s of waiting"),
    (re.compile(r"^ +\+(\d+)\.\d{2} s", re.MULTILINE), lambda found: f"+{_retry(int(found[1]))} s"),
    (re.compile(r"(?<=\S) {2,}"), " "),  # columns are as wide as what varies in them
)


def _retry(seconds: int) -> int:
    return max(due for due in _RETRIES if due <= seconds)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line of the document at which the text begins.

    `why_not_run` is the reason that the document gives for a block that no test can run.
    """

    language: str
    text: str
    line: int
    why_not_run: str | None = None

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


@dataclass(frozen=True)
class Comparison:
    """What of the shown lines is not in the output (None: it is as shown), and which line was found for which."""

    problem: str | None
    pairs: Sequence[tuple[str, str]]


def read_blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown document, in their order."""
    text = document.read_text(encoding="utf-8")
    blocks = [
        Block(m["language"], m["text"], text.count("\n", 0, m.start("text")) + 1, m["why"])
        for m in _FENCE.finditer(text)
    ]
    if 2 * len(blocks) != len(_ANY_FENCE.findall(text)):
        raise ValueError(f"{document.name}: a fence is indented, unclosed, or says more than a language")
    return blocks


def commands(block: Block, document: Path) -> Iterator[Command]:
    r"""Yield the commands of a console block: each `$ ` line, with those that a `\` joins to it, and its output."""
    lines = block.text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    if not starts or starts[0] != 0:
        raise ValueError(f"{document.name}:{block.line}: a console block begins with a line `$ command`")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        line, first = lines[start][2:], start + 1
        while line.endswith("\\"):
            line, first = line[:-1] + lines[first].lstrip(), first + 1
        yield Command(line, lines[first:end], f"{document.name}:{block.line + start}")


def steady(text: str) -> str:
    """Return output with what differs from run to run replaced: ids, times, the numbers of workers."""
    for pattern, replacement in _VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def compare(shown: Sequence[str], actual: str) -> Comparison:
    """Look for the shown lines in the actual output.

    Shown lines follow each other in the output, but for a line `...`, which stands for any number of lines. The first
    and the last line of the output must be shown, or such a line in their place.
    """
    wanted = [steady(line).rstrip() for line in shown]
    raw = actual.rstrip().splitlines()
    lines = [line.rstrip() for line in steady(actual).rstrip().splitlines()]
    pairs: list[tuple[str, str]] = []
    place, gap = 0, False
    for number, line in enumerate(wanted):
        if line == ANYTHING:
            gap = True
            continue
        is_it = re.compile(".*".join(map(re.escape, line.split("…")))).fullmatch
        found = next((i for i in range(place, len(lines)) if is_it(lines[i])), None) if gap else place
        if found is None or found >= len(lines) or not is_it(lines[found]):
            return Comparison(f"not found: {line!r} {'after' if gap else 'as'} line {place + 1}", pairs)
        pairs.append((shown[number], raw[found]))
        place, gap = found + 1, False
    return Comparison(None if gap or place == len(lines) else f"not shown: {lines[place]!r}", pairs)


def difference(shown: Sequence[str], actual: str) -> str | None:
    """Return what of the shown lines is not in the actual output, None when it is as shown."""
    return compare(shown, actual).problem
