"""The prose of a text: what is left without tags, mathematics, code and letters in disguise.

Prose that hides in mathematics or code stays, even a few words at a time: it would be a way round a language reward.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rewards.spans import MARK, spans

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e007f]+"
)
_FANCY_RANGES = ((0xFF21, 0xFF5B), (0x24B6, 0x24EA), (0x1D400, 0x1D800))
_FANCY = re.compile("[" + "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in _FANCY_RANGES) + "]")
_MARKS = re.compile(r"</?(?:think|answer)>|<\|[^|<>\s]{1,40}\|>(?:system|user|assistant)?|\|special_token\|")
_COMMAND = re.compile(r"\\(?:begin|end)\{[A-Za-z]+\*?\}|\\[A-Za-z]+")
_SPACED_LETTERS = re.compile(r"(?<![^\W_])[^\W\d_](?:[^\w\n][^\W\d_]){5,}(?![^\W_])")
_FEW_SPACED_LETTERS = re.compile(r"[^A-Za-z0-9_\n][A-Za-z\x80-\U0010ffff]" * 5)
"""Stands in all of _SPACED_LETTERS, and is found in less time."""
_NOT_A_LETTER = re.compile(r"[\W\d_]+")
_SYMBOL = r"[^\x00-@\[-`{-\x7f]"
_PROSE = re.compile(
    rf"{_SYMBOL}(?<!{_SYMBOL}{{2}}){_SYMBOL}{{1,29}}+[ ,]{{1,3}}+"
    rf"(?:{_SYMBOL}{{2,30}}+[ ,]{{1,3}}+){{4,}}+{_SYMBOL}{{2,30}}+|[^\x00-\x7f]{{8,}}+"
)
"""Six words in a row, or eight signs of other scripts. Here and below, what a pattern looks back at stands behind its
first letter: a search for a letter is faster than one that looks back everywhere.
"""

# ------------------------------------------------------------------------------------------------ what hides in spans

_APART = re.compile(r"[^\s,.;:]")
_NO_WORD = re.compile(
    r"(?:[^A-Za-z\\\x80-\U0010ffff]++|\\(?!q?quad[A-Za-z])[A-Za-z]*+"
    rf"|[A-Za-z\x80-\U0010ffff](?!{_SYMBOL}))*+"
)
"""Commands, and letters that stand alone: most formulas have nothing else, and no prose."""
_SPACES = re.compile(r"\\q?quad|\\[ ,;:!]|~| [ \t\n]+|[\t\n][ \t\n]*")
_LATIN = "A-Za-zªºÀ-ÖØ-öø-ʯ\u1e00-\u1eff"
_ENDING = rf"(?:['’][{_LATIN}]{{1,3}})?"
_WORDS = re.compile(
    rf"[{_LATIN}](?<![{_LATIN}\d_][{_LATIN}])[{_LATIN}]{{0,39}}+{_ENDING}(?: [{_LATIN}]{{1,40}}+{_ENDING})*+"
)
_WORD = re.compile(rf"[{_LATIN}]{{2,40}}")
_OTHER_LETTERS = re.compile(r"[\u0400-\u1cff\u2e80-\uffef\U00020000-\U0003ffff]{2,}")
_WIDE = re.compile(r"[\u0e00-\u0eff\u2e80-\uffef\U00020000-\U0003ffff]")
_NARROW = re.compile(r"[^\W\d_\u0e00-\u0eff\u2e80-\uffef\U00020000-\U0003ffff]+")

_PROGRAMS = """
and as auto bool break by char cin class const continue cout def dict double elif else endl except false finally float
for from function group if import in include insert int into is join lambda len let limit list long main namespace new
none not null on or order pass print printf private public raise range return scanf select self set static std str
string this true try tuple unsigned update using values var void where while with
"""
_FORMULAS = """
all arccos arcsin arctan cos cot det dim even exp gcd lcm lim ln log max min mod odd otherwise prime sin sqrt sum tan
undefined
"""
_UNITS = """
cent cents centimeter centimeters cm cubic day days degree degrees dollar dollars feet foot gallon gallons gram grams
hour hours inch inches kg kilogram kilograms kilometer kilometers km liter liters meter meters metre metres mile miles
minute minutes ml mm month months mph ounce ounces per percent pound pounds radian radians second seconds square unit
units week weeks yard yards year years
"""
_NO_PROSE = frozenset(f"{_PROGRAMS} {_FORMULAS} {_UNITS}".split())
"""Words that stand in rows in programs and formulas, whatever the language around them."""

# English; German; Spanish and French; Italian and Portuguese; Dutch and Scandinavian.
_SMALL_WORDS = """
are because been have here how must our should that the their them then there therefore these they this thus was we were
what when which will would you
das dem der die ein eine einen ist mit nicht und wir wird
del los las para por que una est dans des les nous pour avec une
che della nel sono uma dos com mais
het een van wij och att det ett som ikke har og vi
"""
_FUNCTION_WORDS = frozenset(_SMALL_WORDS.split())
"""Words that hold sentences together, and that neither formulas nor the names in programs are made of."""

_FEW, _SHARE = 5, 0.1  # so many hidden words, and no more than this share of what is visible, are a label
_FEW_IN_BLOCKS, _SHARE_OF_BLOCKS = 20, 0.5  # comments in a program


def plain_text(text: str) -> str:
    """The text without tags, invisible characters, mathematics and code. Letters in disguise become plain letters.

    "It is $x+1$ or `f(x)`" -> "It is   or  ". "$5 and then $10" stays: no closing $ stands before a digit. A run of
    6 words inside mathematics or code is prose and stays too, as do shorter ones where they are more than labels.
    """
    if not text.isascii() and _FANCY.search(text):
        text = text.translate(_plain_letters())
    text = _INVISIBLE.sub("", text)
    if "<" in text or "|" in text:
        text = _MARKS.sub(" ", text)
    if not MARK.search(text):
        return _without_spaced_letters(text)
    kept: list[str] = []
    formulas: list[list[str]] = []  # and code in lines: neighbours with nothing between them count as one: `we` `add`
    blocks: list[list[str]] = []
    position = 0
    for start, end, kind in spans(text):
        between = text[position:start]
        kept.append(between)
        content = text[start:end].strip("`$")
        if kind == "block":
            blocks.append([content])
        elif formulas and not _APART.search(between):
            formulas[-1].append(content)
        else:
            formulas.append([content])
        position = end
    kept.append(text[position:])
    visible = " ".join(kept)
    hidden = _hidden_prose(formulas, visible, is_block=False) if formulas else []
    if blocks:
        hidden += _hidden_prose(blocks, visible, is_block=True)
    text = _COMMAND.sub(" ", " ".join([visible, *hidden]))
    return _without_spaced_letters(text)


def _without_spaced_letters(text: str) -> str:
    """ "s p a c e d" -> "spaced"."""
    if not _FEW_SPACED_LETTERS.search(text):
        return text
    return _SPACED_LETTERS.sub(lambda found: _NOT_A_LETTER.sub("", found.group()), text)


def _hidden_prose(groups: list[list[str]], visible: str, *, is_block: bool) -> list[str]:
    """What of the contents is prose: long runs of words always, short ones where they are too many for labels."""
    found: list[str] = []
    short: list[str] = []
    rest: list[str] = []
    for content in map(" ".join, groups):
        if _NO_WORD.fullmatch(content):
            continue
        if _may_be_prose(content) and (runs := _PROSE.findall(content)):
            found += runs
            content = _PROSE.sub("|", content)
        content = _COMMAND.sub("|", _SPACES.sub(" ", content))
        rest.append(content)
        short += [run for run in _WORDS.findall(content) if len(_content_words(run)) >= 3]
        short += _OTHER_LETTERS.findall(content)
    if not is_block and (whole := _held_together(rest)):
        short = whole
    number = sum(map(_number_of_words, short))
    few, share = (_FEW_IN_BLOCKS, _SHARE_OF_BLOCKS) if is_block else (_FEW, _SHARE)
    if number and (number > few or _exceeds(number, share, visible)):
        found += short
    return found


def _may_be_prose(content: str) -> bool:
    """Whether _PROSE may find something, which takes longer to ask: 6 words have 5 signs between them."""
    return not content.isascii() or content.count(" ") + content.count(",") >= 5


def _content_words(run: str) -> list[str]:
    return [word for word in _WORD.findall(run) if word.lower() not in _NO_PROSE]


def _held_together(contents: list[str]) -> list[str]:
    """All words of the contents where they are sentences in pieces: as many words hold them together as in prose."""
    words = [word for content in contents for word in _content_words(content)]
    number = sum(word.lower() in _FUNCTION_WORDS for word in words)
    if number < 2 or number < 0.15 * len(words):
        return []
    return [" ".join(words), *(run for content in contents for run in _OTHER_LETTERS.findall(content))]


def _exceeds(number: float, share: float, text: str) -> bool:
    """Whether number is more than this share of the text's words."""
    start = text[:1000]  # mostly has words enough, and costs less to count
    return number > share * _number_of_words(start) and number > share * _number_of_words(text)


def _number_of_words(text: str) -> float:
    return len(_NARROW.findall(text)) + (0 if text.isascii() else len(_WIDE.findall(text)) / 2)


@lru_cache(maxsize=1)
def _plain_letters() -> dict[int, str]:
    """Full-width, circled and mathematical letters -> the letters that they depict."""
    return {
        code: unicodedata.normalize("NFKC", chr(code)) for first, end in _FANCY_RANGES for code in range(first, end)
    }
