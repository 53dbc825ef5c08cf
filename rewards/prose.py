"""The prose of a text: what is left without tags, mathematics, code and letters in disguise.

Prose that hides in mathematics or code stays: it would be a way round a language reward.
"""

from __future__ import annotations

import re
import unicodedata
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
# Each alternative runs to the next delimiter and no further, so one pass over a text is linear in its length.
_OPENING = re.compile(
    r"(?P<open>```|~~~|\$\$|\\\[|\\\(|\\begin\{(?P<name>equation|align|aligned|gather|cases|array|[pbv]?matrix)\*?\})"
    r"|`[^`\n]++`"
    r"|(?<!\\)\$(?![\s$])[^$\n]*+(?<!\s)\$(?!\d)"
)
_CLOSING = {"\\[": "\\]", "\\(": "\\)"}
_SYMBOL = r"[^\x00-@\[-`{-\x7f]"
_PROSE = re.compile(rf"(?<!{_SYMBOL})(?:{_SYMBOL}{{2,30}}+[ ,]{{1,3}}+){{5,}}+{_SYMBOL}{{2,30}}+|[^\x00-\x7f]{{8,}}+")


def plain_text(text: str) -> str:
    """The text without tags, invisible characters, mathematics and code. Letters in disguise become plain letters.

    "It is $x+1$ or `f(x)`" -> "It is   or  ". "$5 and then $10" stays: no closing $ stands before a digit. A run of
    6 words inside mathematics or code is prose and stays too.
    """
    if _FANCY.search(text):
        text = text.translate(_plain_letters())
    text = _MARKS.sub(" ", _INVISIBLE.sub("", text))
    kept: list[str] = []
    position = 0
    dead: set[str] = set()  # delimiters that do not occur again: looking for them each time would be quadratic
    while match := _OPENING.search(text, position):
        end = match.end()
        if match["open"]:
            opening = match["open"]
            closing = f"\\end{{{match['name']}" if match["name"] else _CLOSING.get(opening, opening)
            close = -1 if closing in dead else text.find(closing, end)
            if close < 0:
                dead.add(closing)
                kept.append(text[position:end])
                position = end
                continue
            end = close + len(closing)
        kept.append(text[position : match.start()])
        kept.extend(_PROSE.findall(text, match.start(), end))
        position = end
    kept.append(text[position:])
    text = _COMMAND.sub(" ", " ".join(kept))
    return _SPACED_LETTERS.sub(lambda found: _NOT_A_LETTER.sub("", found.group()), text)


@lru_cache(maxsize=1)
def _plain_letters() -> dict[int, str]:
    """Full-width, circled and mathematical letters -> the letters that they depict."""
    return {
        code: unicodedata.normalize("NFKC", chr(code)) for first, end in _FANCY_RANGES for code in range(first, end)
    }
