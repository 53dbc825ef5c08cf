"""Where mathematics and code stand in a text, and which prose hides in them.

Backticks pair as in Markdown: a run of them closes at the next run of the same length, so a stray one beside a fence
opens nothing. A fence stands at the start of a line and closes at the start of a line. What never closes is prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MATHEMATICS = (
    "equation|eqnarray|align|aligned|alignat|gather|gathered|multline|split|cases|array|smallmatrix|[bpvBV]?matrix|"
    "math|displaymath"
)
_OPENING = re.compile(
    r"(?P<ticks>`+)|(?P<tildes>~~~+)"
    rf"|(?P<open>\$\$|\\\[|\\\(|\\begin\{{(?P<name>{_MATHEMATICS})\*?\}})"
    r"|(?P<inline>(?<!\\)\$(?![\s$])[^$\n]*+(?<!\s)\$(?!\d))"
)
_CLOSING = {"\\[": "\\]", "\\(": "\\)"}
_RUN = re.compile(r"`+|~~~+")
_INDENT = 8  # characters of white space and ">" that may stand before a fence in its line
MARK = re.compile(r"[`~$\\]")
"""What every span begins with."""


Span = tuple[int, int, str]
"""(start, end, kind): text[start:end] with its marks, "mathematics", "code" (in a line) or "block" (of code)."""


def spans(text: str) -> Iterator[Span]:
    """The spans of mathematics and code, in order."""
    ticks = _Runs(text)
    dead: set[str] = set()  # delimiters that do not occur again: looking for them each time would be quadratic
    position = 0
    while mark := MARK.search(text, position):  # a search for _OPENING itself tries each form at each character
        start, position = mark.span()
        match = _OPENING.match(text, start)
        if match is None:
            continue
        position = match.end()
        form = match.lastgroup
        if form == "inline":
            yield start, position, "mathematics"
        elif form == "open":
            opening = match["open"]
            closing = f"\\end{{{match['name']}" if match["name"] else _CLOSING.get(opening, opening)
            close = -1 if closing in dead else text.find(closing, position)
            if close < 0:
                dead.add(closing)
            else:
                position = close + len(closing)
                yield start, position, "mathematics"
        elif (close := ticks.closing(start, position)) >= 0:
            position = close
            yield start, position, "block" if match.end() - start >= 3 else "code"


class _Runs:
    """The runs of backticks and tildes of a text, and which of them closes which."""

    def __init__(self, text: str) -> None:
        self._text = text
        found = _RUN.finditer(text) if "`" in text or "~~~" in text else ()
        self._runs = [(run.start(), run.end(), _begins_a_line(text, run.start())) for run in found]
        self._places = {start: place for place, (start, _, _) in enumerate(self._runs)}
        self._dead: set[tuple[str, int, bool, int]] = set()

    def closing(self, start: int, end: int) -> int:
        """Where what the run text[start:end] opens ends, behind the run that closes it; -1 when none does."""
        mark, length = self._text[start], end - start
        place = self._places.get(start)
        if place is None:  # inside a longer run
            return -1
        fence = length >= 3 and self._runs[place][2]
        line = -1 if length >= 3 else self._text.find("\n", end)
        limit = len(self._text) if line < 0 else line
        key = (mark, length, fence, limit)
        if key in self._dead:
            return -1
        for first, last, at_start in self._after(place):
            if first >= limit:
                break
            same = last - first >= length if length >= 3 else last - first == length
            if self._text[first] == mark and same and (at_start or not fence):
                return last
        self._dead.add(key)
        return -1

    def _after(self, place: int) -> Iterator[tuple[int, int, bool]]:
        return (self._runs[i] for i in range(place + 1, len(self._runs)))


def _begins_a_line(text: str, place: int) -> bool:
    before = text[max(0, place - _INDENT - 1) : place]
    _, line_end, indent = before.rpartition("\n")
    return bool(line_end or place <= _INDENT) and not indent.strip(" \t>")
