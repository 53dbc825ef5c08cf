r"""Read one expression, equation or inequality with math-verify, after refusing what is none or would take long.

No time limit runs here, so a text is checked before it is parsed: towers of powers, giant factorials, unknown commands
and words are refused cheaply, with a reason (Unreadable).
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from rewards.types import excerpt

if TYPE_CHECKING:
    from sympy import Basic

MAX_EXPONENT, MAX_COMPOUND_EXPONENT = 9999, 30
"""2^9999 has 3,010 digits; (a+b+c)^30 is already a polynomial of 496 terms."""
MAX_DIGITS, MAX_FACTORIAL = 60, 500

_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "ln", "log", "exp", "sqrt"}
_FUNCTIONS |= {"arcsin", "arccos", "arctan"}
_GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "rho", "sigma", "tau", "phi", "omega"}
NAMES = _FUNCTIONS | _GREEK | {"pi", "infty"}
_COMMANDS = {f"\\{n}" for n in NAMES} | {
    *("\\frac", "\\cdot", "\\times", "\\le", "\\ge", "\\ne", "\\binom", "\\text", "\\overline", "\\circ", "\\cup"),
    *("\\lfloor", "\\rfloor", "\\lceil", "\\rceil", "\\lvert", "\\rvert", "\\imath", "\\lt", "\\gt"),
}
_BARE = re.compile(
    rf"(?<![\\A-Za-z])({'|'.join(sorted(_FUNCTIONS | {'pi', 'infty', 'theta'}, reverse=True))})(?![A-Za-z])"
)
_CAPITAL = re.compile(r"\\[A-Za-z]+|(?<!_)(?<!_\{)[A-Z](?!_)")
ENGLISH = {"not", "is", "the", "if", "for", "in", "no", "yes", "to", "of", "it", "any", "all", "nan", "inf"}
_MATH = re.compile(r"[A-Za-z0-9+\-*/^_=<>()\[\]{}|!.\\ ]*")


class Unreadable(ValueError):
    """A text that cannot be read as mathematics, or that is refused unread; the message says which and why."""


def read_expression(text: str) -> tuple[str, Basic]:
    r"""An expression as it is meant, and what math-verify makes of it: "sin x" -> ("\sin  x", sin(x)).

    Raises Unreadable, with the reason.
    """
    text = _BARE.sub(r"\\\1 ", text)
    _check(text)
    return text, _parse(_capitals(_braces(_exact_decimals(text))))


def bracket_step(symbol: str) -> int:
    """1 for what opens a bracket, -1 for what closes one, else 0."""
    if symbol in ("(", "[", "{", "\\{") or symbol.startswith("\\begin"):
        return 1
    return -1 if symbol in (")", "]", "}", "\\}") or symbol.startswith("\\end") else 0


def _check(text: str) -> None:
    """Raise Unreadable for what is no mathematics, and for what would take long to parse or to evaluate."""
    if not _MATH.fullmatch(text):
        raise Unreadable(f"a character that is no mathematics: {next(c for c in text if not _MATH.fullmatch(c))!r}")
    commands = re.findall(r"\\[A-Za-z]+|\\.", text)
    if unknown := next((command for command in commands if command not in _COMMANDS), None):
        raise Unreadable(f"the command {unknown}")
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text.replace("\\text", "\\"))
    if word := next((w for w in words if len(w) > 4 or w.lower() in ENGLISH), None):
        raise Unreadable(f"the word {word!r}")
    if re.search(r"[0-9] [0-9]|[0-9] ?_", text):
        raise Unreadable("two numbers side by side")
    if len(re.findall(r"[=<>]|\\[ln]e(?![A-Za-z])|\\ge(?![A-Za-z])", text)) > 1:
        raise Unreadable("several relations in one")
    numbers = re.findall(r"[0-9]+", text)
    if any(len(number) > MAX_DIGITS for number in numbers):
        raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
    if text.count("|") > 4 or re.search(r"[+*/^-] ?(?:[+*/^-] ?){2}", text) or len(commands) > 20:
        raise Unreadable("too many signs")
    if "!=" in text:
        raise Unreadable("!=, which is unequal or the end of a factorial")
    if re.search(r"(?:[)}\]|!]|\\r(?:floor|ceil|vert)) ?!", text):
        raise Unreadable("a factorial of brackets or of a factorial")
    giant = any(len(n) > 3 or int(n) > MAX_FACTORIAL for n in numbers)
    if giant and ("!" in text or "\\binom" in text):
        raise Unreadable("a giant factorial")
    _check_powers(text)


def _check_powers(text: str) -> None:
    """Raise Unreadable for towers such as 9^{9^9}, and for exponents that are too large. e^{-x^2} is allowed."""
    for caret in re.finditer(r"\^ ?", text):
        exponent, end = _group(text, caret.end())
        if text[end:].lstrip().startswith("^") or exponent.count("^") > 1 or re.search(r"[0-9)}\]!] ?\^", exponent):
            raise Unreadable("a tower of powers")
        compound = text[: caret.start()].rstrip()[-1:] in set(")}]|!")
        limit = MAX_COMPOUND_EXPONENT if compound else MAX_EXPONENT
        numbers = [int(n) for n in re.findall(r"[0-9]+", exponent)]
        if (
            "!" in exponent
            or len(numbers) > 4
            or any(n > limit for n in numbers)
            or (len(numbers) > 1 and max(numbers) > 99)
        ):
            raise Unreadable("an exponent that is too large")


def _group(text: str, start: int) -> tuple[str, int]:
    """The exponent that starts at `start`, without its brackets, and where it ends: "{a+1}b" -> ("a+1", 5)."""
    if text[start : start + 1] not in ("{", "("):
        match = re.compile(r"\\[A-Za-z]+|.?").match(text, start)
        assert match  # it matches the empty text
        return match.group(), match.end()
    depth = 0
    for end in range(start, len(text)):
        depth += bracket_step(text[end])
        if depth == 0:
            return text[start + 1 : end], end + 1
    raise Unreadable("brackets that do not pair")


def _braces(text: str) -> str:
    """ "2^(10)" -> "2^{10}", "\\sqrt (2)" -> "\\sqrt{2}": LaTeX would raise 2 to the opening bracket alone."""
    while (at := re.search(r"(\^|\\sqrt) ?\(", text)) is not None:
        inside, end = _group(text, at.end() - 1)
        text = f"{text[: at.start()]}{at[1]}{{{inside}}}{text[end:]}"
    return text


def _exact_decimals(text: str) -> str:
    r""" "1.5x" -> "\frac{15}{10}x": a decimal is an exact number, not the nearest float."""
    return re.sub(r"([0-9]*)\.([0-9]+)", lambda m: rf"\frac{{{m[1]}{m[2]}}}{{1{'0' * len(m[2])}}}", text)


def _capitals(text: str) -> str:
    """ "R + r" -> "r_{99} + r": math-verify reads capitals as small letters, and R is not r."""
    return _CAPITAL.sub(lambda m: m.group() if m.group()[0] == "\\" else m.group().lower() + "_{99}", text)


@lru_cache(maxsize=1)
def _config() -> object:
    from math_verify import LatexExtractionConfig, LatexNormalizationConfig

    # It warns, once, that it runs without a time limit: here the caller has one.
    for module in ("parser", "grader"):
        logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
    # Its cleaning is for prose: units takes the m of x+2m away, basic_latex reads (5)_{2} as a count of permutations.
    cleaning = LatexNormalizationConfig(
        basic_latex=False, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    return LatexExtractionConfig(boxed_match_priority=-1, normalization_config=cleaning)


def _parse(latex: str) -> Basic:
    """math-verify's reading of one expression. Raises Unreadable."""
    from math_verify import parse
    from sympy import Basic, nan, zoo

    found = parse(f"${latex}$", [_config()], fallback_mode="no_fallback", parsing_timeout=None)
    if len(found) != 1 or not isinstance(found[0], Basic):
        raise Unreadable(f"math-verify cannot parse {excerpt(latex)}")
    if found[0].has(nan, zoo):
        raise Unreadable(f"{excerpt(latex)} is not defined")
    return found[0]
