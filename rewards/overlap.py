r"""Where a text repeats a problem: ten words in a row, or a short problem as sentences of its own.

A formula is one word, however it is written: "$x^2 + 1$", "\(x^{2}+1\)" and "x^2 + 1" are alike. What formulas alone
share is nobody's own, so at least half of ten words are words indeed. A problem of fewer words is found where its text
stands by itself, from the start of a sentence or a line to the end of one: behind "Problem 3:", before "Answer in
\boxed{}", but not in the middle of another sentence.

The n-grams of problems are kept as their hashes of 64 bits, in a third of the time and the memory of their words.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from itertools import accumulate, chain, compress, repeat
from operator import ge, sub

from rewards.shaping import UNSPACED

Ngram = tuple[str, ...]

_EDGES = "-–—=+/|~#&%@^.,;:!?\"'`()[]{}<>*_$\\，。、；：！？「」『』（）“”‘’"
_ASCII_EDGES = "".join(filter(str.isascii, _EDGES))
_ENDS = frozenset(".?!:;。？！：；")
_CLOSING = "\"'`)]}*_$”’」』）"
_UNSPACED = re.compile(f"[{UNSPACED}]")
_TOKENS = re.compile(rf"\n|[{UNSPACED}]|[^\s{UNSPACED}]+")
_PART = 4  # words of an n-gram that are looked for first
_ONES = re.compile(b"\1+")
_LEAST_LETTERS = 8
"""Of a short problem within a longer text: "find x" stands in many."""

# ------------------------------------------------------------------------------------------------ formulas

_DELIMITED = re.compile(
    r"\$\$([^$]*+)\$\$"
    r"|\\\(([^$\\]*+(?:\\(?![()])[^$\\]*+)*+)\\\)"
    r"|\\\[([^$\\]*+(?:\\(?![\[\]])[^$\\]*+)*+)\\\]"
    r"|\$(?<!\\\$)(?![\s$])([^$\n]*+)(?<!\s)\$(?!\d)"
    r"|\$(?<!\\\$) ([^$\n]*+)(?<= )\$"
)
_INLINE, _MONEY = (2, 4, 5), 5  # groups
_SIGN = re.compile(r"[\\^_=+*/<>]")
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>")
_PROSE = re.compile(r"(?<![a-z\\])[a-z]{3,}[ ,]+[a-z]{2,}")
_PROSE_WITHIN = re.compile(r"[ ,][a-z]{2}")
"""Stands in all of _PROSE, and is found in less time."""
_MEANS = {
    "times": "*", "cdot": "*", "div": "/", "leq": "<=", "le": "<=", "geq": ">=", "ge": ">=", "neq": "!=", "ne": "!=",
    "pi": "π", "theta": "θ", "ldots": "...", "dots": "...", "degree": "°", "dfrac": "\\frac",
    "tfrac": "\\frac", "dbinom": "\\binom", "tbinom": "\\binom",
}  # fmt: skip
_SILENT = "text|mathrm|operatorname|left|right|q?quad|displaystyle"
_WRITTEN = re.compile(rf"\\(?:({'|'.join(_MEANS)}|{_SILENT})(?![a-z])|[,;!:$ ])")
"""Ways to write one thing in LaTeX, and what says nothing."""
_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "≤": "<=", "≥": ">=", "≠": "!=", "，": " "})
_OTHER_SIGNS = re.compile(f"[{''.join(map(chr, _SIGNS))}]")
_LONGEST = 200  # characters that are joined to a formula
_OPERATORS = frozenset(("=", "+", "-", "*", "/", "^", "<", ">", "<=", ">=", "!="))


def _compact(match: re.Match[str]) -> str:
    """A formula between its marks without them and without spaces; prose between dollars of money stays as it is."""
    form = match.lastindex or 0
    content: str = match[form]
    is_inline = form in _INLINE and content != ""
    if form == _MONEY and not _SIGN.search(content):
        return match.group()
    if " " in content or "\n" in content:
        if _PROSE_WITHIN.search(content) and _PROSE.search(content):
            return match.group()
        content = "".join(content.split())
    return content if is_inline else f" {content} "


def _without_marks(text: str) -> str:
    """The text with _compact formulas. Most texts' marks pair up, which needs no regular expression."""
    plain = None
    if "\\(" not in text:
        plain = _without_displays(text) if "\\[" in text else _without_dollars(text)
    return _DELIMITED.sub(_compact, text) if plain is None else plain


def _without_displays(text: str) -> str | None:
    r"""The text with compact formulas between \[ and \] and between dollars; None where marks may pair otherwise."""
    first, *pieces = text.split("\\[")
    found = [_without_dollars(first, certain=True)]
    for piece in pieces:
        content, mark, rest = piece.partition("\\]")
        if not mark or "$" in content or (_PROSE_WITHIN.search(content) and _PROSE.search(content)):
            return None
        found += [f" {''.join(content.split())} ", _without_dollars(rest, certain=True)]
    return None if None in found else "".join(filter(None, found))


def _without_dollars(text: str, *, certain: bool = False) -> str | None:
    """The text with compact formulas between dollars; None where some may be displays, money or, if it must be certain,
    anything but formulas."""
    parts = text.split("$")
    if len(parts) == 1:
        return text
    if len(parts) % 2 == 0 or (certain and "\\$" in text):
        return None
    for place in range(1, len(parts), 2):
        content = parts[place]
        if not content or content[0].isspace():
            return None
        if certain and (content[-1].isspace() or "\n" in content or parts[place + 1][:1].isdigit()):
            return None
        if " " in content:
            if _PROSE_WITHIN.search(content) and _PROSE.search(content):
                return None
            parts[place] = "".join(content.split())
        elif "," in content and _PROSE.search(content):
            return None
    return "".join(parts)


def _plain(text: str) -> str:
    """Lower case, formulas in one form, and spaces for commas."""
    text = text.lower()
    if not text.isascii() and _OTHER_SIGNS.search(text):
        text = text.translate(_SIGNS)
    if "$" in text or "\\" in text:
        if "\\" in text:
            text = _WRITTEN.sub(lambda found: _MEANS.get(found[1], ""), text).replace("^\\circ", "°")
        text = _without_marks(text.replace("~", " ")).replace("{", "").replace("}", "")
    if "<|" in text:
        text = _SPECIAL.sub("\n", text)
    return text.replace(",", " ")


def _joined(tokens: list[str], words: list[str], operators: list[int]) -> list[str]:
    """The bare words, those that operators join in one: "x^2", "+", "1", "-", "so" -> x^2+1, "", so.

    operators: where the tokens are such signs. Joined is what stands between numbers and letters.
    """
    found: list[str] = []
    last, done, end = "", 0, len(words) - 1  # the last token of what was found, and how many tokens are
    for place in operators:
        if place < done or place == end:
            continue
        if place > done:
            found += words[done:place]
            last, done = tokens[place - 1], place
        if not found or len(last) >= _LONGEST:
            continue
        before, after = found[-1], words[place + 1]  # words of prose are no terms
        if (len(before) == 1 or not before.isalpha()) and (len(after) == 1 or not after.isalpha()):
            last += tokens[place] + tokens[place + 1]
            found[-1] = last.strip(_EDGES)
            done = place + 2
    return found + words[done:]


# ------------------------------------------------------------------------------------------------ words


def words_of(text: str) -> list[str]:
    r"""The bare words of a text. "Find $x + 1$. Why?" -> find, x+1, why"""
    return _words(_plain(text))


def _words(plain: str) -> list[str]:
    return _bare(_tokens(plain), _edges(plain))


def _tokens(plain: str) -> list[str]:
    spaced = plain.isascii() or not _UNSPACED.search(plain)
    return plain.split() if spaced else [token for token in _TOKENS.findall(plain) if token != "\n"]


def _edges(text: str) -> str:
    """What surrounds the words of a text: to strip fewer signs takes half the time."""
    return _ASCII_EDGES if text.isascii() else _EDGES


def _bare(tokens: list[str], edges: str) -> list[str]:
    words = list(map(str.strip, tokens, repeat(edges)))
    empty = words.count("")
    if not empty:
        return words
    operators, place = [], -1
    for _ in range(empty):
        place = words.index("", place + 1)
        if tokens[place] in _OPERATORS:
            operators.append(place)
    if operators:
        words = _joined(tokens, words, operators)
    return list(filter(None, words))


def sentences_of(text: str) -> list[list[str]]:
    """The bare words of each sentence or line; "Q1: Find x." has two."""
    return _sentences(_plain(text))


def _sentences(plain: str) -> list[list[str]]:
    found = []
    edges = _edges(plain)
    for line in plain.split("\n"):
        start, tokens = 0, _tokens(line)
        for place, token in enumerate(tokens, start=1):
            last = token[-1]
            if last in _CLOSING:
                last = token.rstrip(_CLOSING)[-1:]
            if place == len(tokens) or last in _ENDS:
                if words := _bare(tokens[start:place], edges):
                    found.append(words)
                start = place
    return found


def problem_ngrams(words: list[str], ngram: int) -> set[int]:
    """What a problem is found by: its n-grams that are mostly words; without one, all its words, as a whole."""
    return full_ngrams(words, ngram) or ({hash(tuple(words))} if words else set())


def full_ngrams(words: list[str], ngram: int) -> set[int]:
    """The n-grams that are mostly words, as hashes: what formulas and lists of numbers share is nobody's own."""
    are_words = list(accumulate(map(str.isalpha, words), initial=0))
    numbers = map(sub, are_words[ngram:], are_words)  # of words, in each n-gram
    return set(compress(_hashes(words, ngram), map(ge, numbers, repeat(ngram / 2))))


def _hashes(words: list[str], ngram: int) -> Iterator[int]:
    return map(hash, zip(*(words[i:] for i in range(ngram)), strict=False))


class Finder:
    """Finds n-grams in texts: those of full length anywhere, short problems as sentences of their own.

    words_P: the words of each problem; telling: those of their n-grams (problem_ngrams) that are looked for.

    A text is looked through in steps. In any ten words in a row, a step begins with four of them, so that a text
    needs no other look when none of its steps begins with four words of a problem, as in nearly all.
    """

    def __init__(self, words_P: Sequence[list[str]], telling: Set[int], ngram: int) -> None:
        self._ngram = ngram
        self._short = {whole for whole in map(tuple, words_P) if hash(whole) in telling and self._is_short(whole)}
        self._long = telling - set(map(hash, self._short))
        self._part = min(_PART, ngram)
        self._step = ngram - self._part + 1
        self._parts = set(chain.from_iterable(_hashes(words, self._part) for words in words_P))
        self._longest: dict[str, int] = {}  # first word -> words of the longest short problem that begins with it
        for found in self._short:
            self._longest[found[0]] = max(len(found), self._longest.get(found[0], 0))
        counts = Counter(chain.from_iterable(self._short))
        self._short_words: defaultdict[str, list[Ngram]] = defaultdict(list)  # a word that few others have -> problems
        for found in self._short:
            self._short_words[min(found, key=lambda word: (counts[word], -len(word), word))].append(found)

    def _is_short(self, whole: Ngram) -> bool:
        return len(whole) != self._ngram or 2 * sum(map(str.isalpha, whole)) < len(whole)

    def find(self, text: str) -> dict[int, str]:
        """The words of the n-grams that the text repeats, by their hashes: those of full length, then short ones."""
        plain = _plain(text)
        words = _words(plain)
        steps = map(hash, zip(*(words[i :: self._step] for i in range(self._part)), strict=False))
        begun = bytes(map(self._parts.__contains__, steps))
        found = self._find_long(words, begun) if 1 in begun else {}
        if not self._short_words.keys().isdisjoint(words) and self._may_be_short(set(words)):
            found |= {hash(short): " ".join(short) for short in self._find_short(words, plain)}
        return found

    def _find_long(self, words: list[str], begun: bytes) -> dict[int, str]:
        """begun: 1 for each step that begins with words of a problem."""
        size, step, found = self._ngram, self._step, {}
        for run in _ONES.finditer(begun):
            first, last = max(0, (run.start() - 1) * step + 1), (run.end() - 1) * step
            for start, ngram in enumerate(_hashes(words[first : last + size], size), first):
                if ngram in self._long:
                    found[ngram] = " ".join(words[start : start + size])
        return found

    def _may_be_short(self, words: set[str]) -> bool:
        """Whether all words of a short problem are there."""
        return any(
            words.issuperset(found) for word in self._short_words.keys() & words for found in self._short_words[word]
        )

    def _find_short(self, words: list[str], plain: str) -> Iterator[Ngram]:
        """Short problems that are the whole text, or sentences of it."""
        if tuple(words) in self._short:
            yield tuple(words)
            return
        sentences = _sentences(plain)
        for first, sentence in enumerate(sentences):
            longest = self._longest.get(sentence[0], 0)
            found, following = tuple(sentence), first + 1
            while len(found) <= longest:
                if found in self._short and _stands_alone(found):
                    yield found
                if following == len(sentences):
                    break
                found += tuple(sentences[following])
                following += 1


def _stands_alone(words: Ngram) -> bool:
    """Whether so few words tell a problem within a longer text: enough letters, and not a formula alone."""
    return sum(map(len, words)) >= _LEAST_LETTERS and sum(len(word) for word in words if word.isalpha()) > 2
