"""The prose of a text: what is left without tags, mathematics, code and letters in disguise.

Prose that hides in mathematics or code stays: it would be a way round a language reward. Six words in a row are prose
wherever they stand, also when each has a formula of its own; fewer at a time are, when they come to six different ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e007f]+"
)
_FANCY_RANGES = ((0xFF21, 0xFF5B), (0x24B6, 0x24EA), (0x1D400, 0x1D800))
_FANCY = re.compile("[" + "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in _FANCY_RANGES) + "]")
_MARKS = re.compile(r"</?(?:think|answer)>|<\|[^|<>\s]{1,40}\|>(?:system|user|assistant)?|\|special_token\|")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_SPACED_LETTERS = re.compile(r"(?<![^\W_])[^\W\d_](?:[^\w\n][^\W\d_]){5,}(?![^\W_])")
_NOT_A_LETTER = re.compile(r"[\W\d_]+")
# Each alternative runs to the next delimiter and no further, so one pass over a text is linear in its length. A single
# backtick beside a fence is neither: it would make the code prose, and the prose code.
_OPENING = re.compile(
    r"(?P<open>`{3,}+|~{3,}+|\$\$|\\\[|\\\(|"
    r"\\begin\{(?P<name>equation|align|aligned|gather|cases|array|[pbv]?matrix)\*?\})"
    r"|(?<!`)(?P<code>`)(?!`)[^`\n]++`(?!`)"
    r"|(?<!\\)\$(?![\s$])[^$\n]*+(?<!\s)\$(?!\d)"
)
_CLOSING = {"\\[": "\\]", "\\(": "\\)"}
_SYMBOL = r"[^\x00-@\[-`{-\x7f]"
_WORD = rf"{_SYMBOL}{{2,30}}+"
_PROSE = re.compile(rf"(?<!{_SYMBOL})(?:{_WORD}[ ,]{{1,3}}+){{5,}}+{_WORD}|[^\x00-\x7f]{{8,}}+")
_DELIMITERS = re.compile(
    r"\$\$?|`+|~~~+|\\[\[\]()]|\\(?:begin|end)\{[a-z]+\*?\}|\\(?:text|mathrm|mbox|textbf|textit)\b|[{}]"
)
_LETTERS_BETWEEN = re.compile(r"[^\W\d_]")
_FOREIGN = r"(?:(?![\x00-\x7f\u0370-\u03ff])[^\W\d_]){2,}+"  # Greek letters are mathematics
# Few words at a time: two in a row in a formula, or one alone in it; three in a row in inline code; a line of a code
# block that has nothing but words.
_FEW_IN_FORMULA = re.compile(
    rf"(?<![\\A-Za-z]){_WORD}(?:[ ,]{{1,3}}+{_WORD})++|^\s*+[A-Za-z]?[a-z]{{2,30}}+\s*+$|{_FOREIGN}"
)
_FEW_IN_CODE = re.compile(rf"(?<![\\A-Za-z_.]){_WORD}(?:[ ,]{{1,3}}+{_WORD}){{2,}}+(?![_(.=])|{_FOREIGN}")
_FEW_IN_BLOCK = re.compile(
    rf"^[ \t]*+{_WORD}(?:[ ,]{{1,3}}+{_WORD}){{2,}}+[ \t]*+[.,;:!?]?[ \t]*+$|{_FOREIGN}", re.MULTILINE
)
_KEYWORDS = {
    *("and", "as", "assert", "break", "class", "const", "continue", "def", "del", "elif", "else", "except", "false"),
    *("final", "finally", "for", "from", "function", "global", "if", "import", "in", "int", "is", "lambda", "let"),
    *("none", "not", "null", "or", "pass", "print", "public", "raise", "return", "static", "str", "true", "try", "var"),
    *("void", "while", "with", "yield", "sin", "cos", "tan", "log", "ln", "exp", "sqrt", "max", "min", "gcd", "lcm"),
    *("mod", "det", "dim", "ker", "lim", "sup", "inf", "arg", "deg", "new", ""),
}  # fmt: skip
"""Words of programming languages and of mathematics: they are no sign of prose."""
_FEW = 6
"""Different words, hidden a few at a time, from which on they are prose."""


def plain_text(text: str) -> str:
    """The text without tags, invisible characters, mathematics and code. Letters in disguise become plain letters.

    "It is $x+1$ or `f(x)`" -> "It is   or  ". "$5 and then $10" stays: no closing $ stands before a digit. Prose
    inside mathematics or code stays too; see the top of the file.
    """
    if _FANCY.search(text):
        text = text.translate(_plain_letters())
    text = _MARKS.sub(" ", _INVISIBLE.sub("", text))
    kept: list[str] = []
    region: list[tuple[str, re.Pattern[str]]] = []  # formulas and code with no letter between them
    few: list[str] = []
    position = 0
    for start, end, kind in _spans(text):
        between = text[position:start]
        if _LETTERS_BETWEEN.search(between):
            kept.extend(_prose_of(region, few))
            region = []
        kept.append(between)
        region.append((text[start:end], kind))
        position = end
    kept.extend(_prose_of(region, few))
    different = {word for run in few for word in re.split(r"[\s,.;:!?]+", run) if word.lower() not in _KEYWORDS}
    if sum(1 if word.isascii() else len(word) / 2 for word in different) >= _FEW:
        kept.extend(few)
    kept.append(text[position:])
    text = _COMMAND.sub(" ", " ".join(kept))
    return _SPACED_LETTERS.sub(lambda found: _NOT_A_LETTER.sub("", found.group()), text)


def _spans(text: str) -> Iterator[tuple[int, int, re.Pattern[str]]]:
    """Where mathematics and code start and end, and what tells a few words in them."""
    position = 0
    dead: set[str] = set()  # delimiters that do not occur again: looking for them each time would be quadratic
    while match := _OPENING.search(text, position):
        position = match.end()
        opening = match["open"]
        if not opening:
            yield match.start(), position, _FEW_IN_CODE if match["code"] else _FEW_IN_FORMULA
            continue
        closing = f"\\end{{{match['name']}" if match["name"] else _CLOSING.get(opening, opening)
        close = -1 if closing in dead else text.find(closing, position)
        if close < 0:
            dead.add(closing)
            continue
        position = close + len(closing)
        yield match.start(), position, _FEW_IN_BLOCK if opening[0] in "`~" else _FEW_IN_FORMULA


def _prose_of(region: list[tuple[str, re.Pattern[str]]], few: list[str]) -> list[str]:
    """Six words in a row in one formula or piece of code, or in several together; fewer in a row go to `few`."""
    found = [run for inside, _ in region for run in _PROSE.findall(inside)]
    if len(region) > 1 and not found:
        found = _PROSE.findall(" ".join(" ".join(_DELIMITERS.sub(" ", inside).split()) for inside, _ in region))
    if not found:
        for inside, kind in region:
            few += kind.findall(inside if kind is _FEW_IN_BLOCK else _DELIMITERS.sub(" ", inside))
    return found


@lru_cache(maxsize=1)
def _plain_letters() -> dict[int, str]:
    """Full-width, circled and mathematical letters -> the letters that they depict."""
    return {
        code: unicodedata.normalize("NFKC", chr(code)) for first, end in _FANCY_RANGES for code in range(first, end)
    }
