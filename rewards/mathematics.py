r"""Read an answer as mathematics: a text -> a Form, once. Structure is read here; math-verify parses what is left.

A Form is a number, a choice letter, words, a set, a tuple or interval, a union, a matrix, or an expression of sympy.
No time limit runs here: what is too long or nested too deeply is refused (Unreadable), and so is what
rewards/expressions.py will not parse.

    "3, 5"  "\{5, 3\}"  "x = 3 \text{ or } x = 5"  "4 \pm 1"    sets, in any order
    "(3, 5)"  "[3, 5)"  "3 \le x < 5"                         tuples and intervals: brackets and order count
    "\text{(C)}"  "C"                                         a letter
    "\text{Evelyn}"  "evelyn"                                 words, in any case
    "\text{June 20}"                                          words; p-q is a difference
    "5 cm"  "90^\circ"  "\$5"                                  numbers with a unit
    "(42)"  "\text{42}"  "= 42"  "- 42"                       plain numbers
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from rewards.expressions import ENGLISH, NAMES, Unreadable, bracket_step, read_expression
from rewards.quantities import SEPARATORS, Number, parse_number, split_unit

if TYPE_CHECKING:
    from sympy import Basic

MAX_LENGTH = 300
"""Of a text that is more than a number, in characters."""
MAX_PARTS = 24
"""Of a list, set or matrix: they are matched in any order."""
MAX_NESTING, MAX_ROUND_NESTING = 16, 6
"""math-verify's parser takes 0.1 s and more for each further round bracket around x."""
_ROOT = re.compile(r"√ ?([0-9]+|[A-Za-z])")
_LATEX = re.compile(r"\\\\|\\[,;:! ]|\\[A-Za-z]+|~|\*\*|[<>]=|[π∞∪≤≥≠×·÷√]")
_TIDIED = {"\\displaystyle": "", "\\leq": r"\le ", "\\geq": r"\ge ", "\\neq": r"\ne ", "\\leqslant": r"\le "}
_TIDIED |= {"\\geqslant": r"\ge ", "~": " ", "**": "^", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "≤": r"\le "}
_TIDIED |= {"≥": r"\ge ", "≠": r"\ne ", "×": r"\times ", "·": r"\cdot ", "÷": "/", "√": r"\sqrt ", "\\div": "/"}
_TIDIED |= {"<=": r"\le ", ">=": r"\ge "}
_TIDIED |= dict.fromkeys(["\\,", "\\;", "\\:", "\\!", "\\ ", "\\quad", "\\qquad"], " ")
_TIDIED |= dict.fromkeys(["\\left", "\\right", "\\big", "\\Big", "\\bigl", "\\bigr", "\\Bigl", "\\Bigr"], "")
_TIDIED |= dict.fromkeys(["\\dfrac", "\\tfrac", "\\cfrac"], "\\frac")
_TIDIED |= dict.fromkeys(
    ["\\mbox", "\\textbf", "\\textrm", "\\textit", "\\textnormal", "\\mathrm", "\\mathbf"], "\\text"
)
_AND = re.compile(r" ?,? ?(?:\\text ?\{ ?(?:and|or) ?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])) ?")
_THOUSANDS = re.compile(r"(?<![0-9,.])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?= ?(?:\\(?!\\)|[a-z]))")
_SUBSCRIPT = re.compile(r"_([A-Za-z0-9])(?![0-9])")
_KEY_BRACES = re.compile(r"([_^])\{([A-Za-z0-9])\}")
_KEY_SPACES = re.compile(r"(?<![0-9]) | (?![0-9])")

_NAME = r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|sigma))(?:_(?:\{[A-Za-z0-9]{1,3}\}|[A-Za-z0-9]))?"
_VARIABLE = re.compile(
    rf"(?P<name>{_NAME}(?: ?\([A-Za-z](?:, ?[A-Za-z])*\))?|\([A-Za-z](?: ?, ?[A-Za-z])+\))"
    r" ?(?:=|\\in(?![A-Za-z])) ?(?P<rest>[^=<>]+)"
)
_LETTER = re.compile(r"\( ?([A-J]) ?\)|([A-J])\)?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]+(?: [0-9]{1,4})?")
_WRAPPED = re.compile(r"\\text ?\{([^{}]*)\}|\(([^(),]*)\)|= ?(.*)")
_BASE = re.compile(r"0*([0-9A-F]+)_(?:\{([0-9]{1,2})\}|([0-9]{1,2}))")
_MATRIX = re.compile(r"\\begin ?\{([pb]?matrix)\}(.*)\\end ?\{\1\}")
_TOKEN = re.compile(r"\\begin ?\{[a-z]*\}|\\end ?\{[a-z]*\}|\\[A-Za-z]+|\\.|.")


@dataclass(frozen=True)
class Form:
    """What an answer is. Only the fields of its kind are set.

    kind: number, letter, words, base (52_8), set, tuple, union, matrix (its rows are tuples) or expression.
    text: the letter, the words, the brackets of a tuple, an expression as written. variable: the x of "x = 3".
    unit: "cm^2" and such, or "".
    """

    kind: str
    text: str = ""
    number: Number | None = None
    parts: tuple[Form, ...] = ()
    expression: Basic | None = None
    variable: str = ""
    unit: str = ""


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    r"""The Form of a normalised answer. Raises Unreadable, with the reason.

    "x = \frac{1}{2}" -> the number 1/2 of the variable x; "(1, 2]" -> a tuple with the brackets "(]".
    """
    text = tidy(text)
    body, variable = without_variable(text)
    form = read_simple(body) or _read_structure(body) or _read_expression(body)
    return replace(form, variable=variable) if variable else form


# ------------------------------------------------------------------------------------------------ texts


def tidy(text: str) -> str:
    """The text in one spelling (see respelled). Raises Unreadable when it is too long."""
    if len(text) > MAX_LENGTH:
        raise Unreadable(f"{len(text)} characters, more than {MAX_LENGTH}")
    return respelled(text)


def respelled(text: str) -> str:
    r"""One spelling of LaTeX for each thing: "\left(\dfrac12,\;π\right)" -> "(\frac12, \pi)"."""
    text = SEPARATORS.sub(",", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = _LATEX.sub(lambda match: _TIDIED.get(match.group(), match.group()), text)
    text = _SUBSCRIPT.sub(r"_{\1}", text)
    text = _AND.sub(", ", " ".join(text.split()))
    return _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text).strip()


def text_key(text: str) -> str:
    """The tidy text without spaces and needless braces, for comparing: "x^{2} + 1" -> "x^2+1". "4 2" is not "42"."""
    return _KEY_SPACES.sub("", _KEY_BRACES.sub(r"\1\2", tidy(text)))


def stands_in(text: str, prompt: str) -> bool:
    """Whether a text_key stands in a prompt, spaces aside: "2x+3" in "Is 2x + 3 odd?", not in "Is 12x+30 odd?"."""
    pattern = " ?".join(map(re.escape, text))
    whole = rf"(?:\b|(?!\w)){pattern}(?:\b|(?<!\w))"
    return re.search(whole, _KEY_BRACES.sub(r"\1\2", respelled(prompt)), re.ASCII) is not None


def without_variable(text: str) -> tuple[str, str]:
    r""" "x = 3" -> ("3", "x"); "x \in [1, 2]" -> ("[1, 2]", "x"); "6 = 2x" stays as it is, with ""."""
    match = _VARIABLE.fullmatch(text)
    return (match["rest"], match["name"].replace(" ", "")) if match else (text, "")


def read_simple(text: str, *, wordy: bool = False) -> Form | None:
    r"""The Form of what needs no parser: a number, a letter, words, or a number in another base. Else None.

    wordy: words are wanted, so that AB is one, as \text{AB} always is; else it is a product, and p-q a difference.
    """
    wrapped = _WRAPPED.fullmatch(text)
    rest, unit = split_unit(wrapped[wrapped.lastindex or 0].strip() if wrapped else text)
    number = parse_number(rest)
    if number is not None:
        return Form("number", number=number, unit=unit)
    plain = re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text).strip()
    if letter := _LETTER.fullmatch(plain):
        return Form("letter", letter[1] or letter[2])
    words = re.split("[ -]+", plain)
    wordy = wordy or plain != text or any(word.lower() in ENGLISH for word in words)
    wordy = wordy or any(len(word) > 2 and not word.isdigit() for word in words)
    wordy = wordy or (len(words) > 2 and "-" not in plain)  # B A C is an order of letters
    if wordy and _WORDS.fullmatch(plain) and not {*words} & NAMES:
        return Form("words", re.sub(" ?- ?", "-", " ".join(plain.split())).casefold())
    if base := _BASE.fullmatch(text):
        return Form("base", f"{base[1]}_{base[2] or base[3]}")
    return None


# ------------------------------------------------------------------------------------------------ structure


def _split(text: str, *separators: str) -> list[str]:
    """The pieces between separators outside all brackets, a separator before each piece but the first.

    "a < (b, c) < d" at "<" -> ["a", "<", "(b, c)", "<", "d"]. Raises Unreadable for brackets that do not pair.
    """
    pieces, start, depth, round_depth = [], 0, 0, 0
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol in separators and depth == 0:
            pieces += [text[start : token.start()].strip(), symbol]
            start = token.end()
        step = bracket_step(symbol)
        depth += step
        round_depth += step if symbol in "()" else 0
        if depth < 0:
            raise Unreadable("brackets that do not pair")
        if depth > MAX_NESTING or round_depth > MAX_ROUND_NESTING:
            raise Unreadable("brackets nested too deeply")
    if depth:
        raise Unreadable("brackets that do not pair")
    return [*pieces, text[start:].strip()]


def _parts(pieces: list[str]) -> tuple[Form, ...]:
    if len(pieces) > MAX_PARTS:
        raise Unreadable(f"{len(pieces)} parts, more than {MAX_PARTS}")
    return tuple(read(piece) for piece in pieces)


def _read_structure(text: str) -> Form | None:
    """A matrix, union, inequality, list, set, tuple, interval or ratio; None when the text is one expression."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row for row in _split(matrix[2], "\\\\")[::2] if row]
        return Form(
            "matrix", parts=tuple(Form("tuple", parts=_parts(_split(row, "&")[::2])) for row in rows[:MAX_PARTS])
        )
    if len(pieces := _split(text, "\\cup")[::2]) > 1:
        return Form("union", parts=_parts(pieces))
    pieces = list(_without_plus_minus(_split(text, ",", ";")[::2]))
    if len(pieces) > 1:
        return Form("set", parts=_parts(pieces))
    if text in ("\\emptyset", "\\varnothing"):
        return Form("set")
    if len(pieces := _split(text, "<", ">", "\\le", "\\ge", "\\lt", "\\gt")) > 1:
        return _read_inequality(pieces)
    if len(pieces := _split(text, ":")[::2]) > 1:
        return Form("tuple", ":", parts=_parts(pieces))
    return _read_brackets(text)


def _without_plus_minus(pieces: list[str]) -> Iterator[str]:
    r""" "1 \pm 2" -> "1 + 2", "1 - 2"."""
    for piece in pieces:
        if piece.count("\\pm") == 1 and _read_brackets(piece) is None:
            yield piece.replace("\\pm", "+")
            yield piece.replace("\\pm", "-")
        else:
            yield piece


def _read_brackets(text: str) -> Form | None:
    """A set in braces, or a tuple or interval in brackets, when one pair spans the whole text."""
    marks = re.fullmatch(r"(\\\{|[(\[{])(.*)(\\\}|[)\]]|(?<!\\)\})", text)
    if not marks:
        return None
    left, inner, right = marks.groups()
    try:
        pieces = _split(inner, ",")[::2]
    except Unreadable:  # (a)(b): the first bracket closes before the end
        return None
    braces = left + right
    if braces == "\\{\\}" or (braces == "{}" and len(pieces) > 1):  # {42} is 42 in LaTeX's own braces
        return Form("set", parts=_parts(list(_without_plus_minus(pieces))) if inner.strip() else ())
    if len(pieces) == 1 or left == "{" or right == "}":
        return None
    return Form("tuple", braces, parts=_parts(pieces))


def _read_inequality(pieces: list[str]) -> Form | None:
    r""" "1 < x \le 2" -> (1, 2], "x > 5" -> (5, \infty), each of the variable x; None for other inequalities."""
    values, signs = pieces[::2], [sign.replace("\\lt", "<").replace("\\gt", ">") for sign in pieces[1::2]]
    if all(sign in (">", "\\ge") for sign in signs):
        values, signs = values[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]]
    elif not all(sign in ("<", "\\le") for sign in signs):
        return None
    if len(values) == 2 and re.fullmatch(_NAME, values[0]):
        values, signs = ["-\\infty", *values], ["<", *signs]
    elif len(values) == 2:
        values, signs = [*values, "\\infty"], [*signs, "<"]
    if len(values) != 3 or not re.fullmatch(_NAME, values[1]):
        return None
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return Form("tuple", brackets, parts=_parts([values[0], values[2]]), variable=values[1])


def _read_expression(text: str) -> Form:
    """An expression, equation or inequality, parsed by math-verify. Raises Unreadable."""
    body, unit = split_unit(text)
    meant, expression = read_expression(body)
    return Form("expression", text=meant, expression=expression, unit=unit)
