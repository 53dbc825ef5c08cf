r"""Accuracy: is the final answer the reference answer?

R1's rule for mathematics: match gives 1, else 0 (Nature 10.1038/s41586-025-09422-z, Methods; V2 table 4). The answer
is extracted strictly (rewards/extract.py), then compared as text, as an exact number, and last as mathematics
(rewards/mathematics.py, on math-verify). The choices that a reader should know:

    a plain number     wants a plain number: 40+2 is not 42, 1.414214 is not \sqrt{2}, 0.333 is not 1/3
    percent            50% is neither 50 nor 0.5, unless percent="lenient"
    units              a known unit may be left out or added (MATH-500 writes both 15\mbox{ cm}^2 and 15), but two
                       units must be the same: 5 km is not 5 cm, and 42 apples is not 42
    3, 5 and \{5, 3\}   are the same set; (3, 5) and (5, 3) are not the same, nor are (3, 5] and (3, 5)
    x = 3 and 3        are the same; x = 3 and y = 3 are not
    words              ignore case (Evelyn, evelyn); letters do not (x is not X)
    the question       an expression copied from the prompt is not its own simplification; a word, a number or
                       another notation of the reference (\pi/2) may stand there
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from rewards.expressions import Unreadable
from rewards.extract import boxes, final_answers, normalise, opens_thinking
from rewards.mathematics import MAX_LENGTH, Form, read, read_simple, stands_in, text_key, tidy, without_variable
from rewards.quantities import UNITS, Number, parse_number, split_unit
from rewards.types import Score, correct, excerpt, unparseable, wrong

if TYPE_CHECKING:
    from sympy import Basic, Expr

MAX_BOXES = 8
"""Boxes with different texts that may still agree (0.5, 1/2): each pair is a comparison."""
MIN_COPIED = 5
"""An answer of fewer characters may stand in the prompt by chance."""
MAX_SOLVED = 60
"""Characters of a relation that math-verify may solve; longer ones are compared by their values only."""


def accuracy(
    completion: str,
    *,
    prompt: str = "",
    answer: str,
    percent: Literal["strict", "lenient"] = "strict",
    **columns: object,
) -> Score:
    r"""1 when the completion's final answer is the reference `answer`, else 0.

    completion: the model's text. prompt: what it was given; one that ends in <think> puts the completion's start
    inside the thinking. From the row: answer, the reference: an answer, a solution with a \boxed{} in it, or a GSM8K
    solution ending in "#### 42". Raises ValueError when it is empty. Setting: percent, "strict", or "lenient": 50% is
    50 and 0.5.

    Unparseable: no answer after the thinking, or an answer or a reference that cannot be read as mathematics (the
    reason says which). Wrong: another answer, or two boxes that differ.

        "<think>..</think><answer>\frac{2}{4}</answer>", answer="0.5" -> 1, "correct"
    """
    if percent not in ("strict", "lenient"):
        raise ValueError(f"percent is 'strict' or 'lenient', not {percent!r}")
    gold = reference_answer(answer)
    found = final_answers(completion, opened=opens_thinking(prompt))
    if not found.answers:
        return unparseable(found.reason)
    # Each candidate is normalised once: pairwise, many boxes and one very long one would cost their product.
    candidates = list(dict.fromkeys(normalise(text) for text in found.answers))
    if len(candidates) > MAX_BOXES:
        return wrong(f"{len(candidates)} boxes that differ")
    try:
        if any(not _agree(other, candidates[0], percent) for other in candidates[1:]):
            return wrong(f"boxes that differ: {excerpt(candidates[0])} and {excerpt(candidates[-1])}")
    except Unreadable:
        return unparseable(f"boxes that cannot be compared: {excerpt(candidates[0])} and {excerpt(candidates[-1])}")
    given, wanted = candidates[0], normalise(gold)
    if _agree_plainly(given, wanted):
        return correct()
    try:
        if not same_mathematics(given, wanted, percent=percent):
            return wrong(f"{excerpt(given)} is not {excerpt(gold)}")
    except Unreadable as error:
        return unparseable(f"{error}; the answer is {excerpt(given)}, the reference {excerpt(gold)}")
    if _copied(given, wanted, prompt):
        return wrong(f"{excerpt(given)} stands in the question: it is equal to {excerpt(gold)}, but not the answer")
    return correct()


def reference_answer(answer: str) -> str:
    r"""The answer in a reference: after the last "####", else in the last \boxed{}, else the whole text.

    "... = 18 #### 18" -> "18". Raises ValueError when nothing is left.
    """
    text = answer.rsplit("####", 1)[-1]
    boxed = boxes(text)
    gold = (boxed[-1] if boxed else text).strip()
    if not gold:
        raise ValueError(f"the row has no reference answer: {excerpt(answer)}")
    return gold


def check_reference(answer: str) -> str | None:
    r"""None when completions can be judged against this reference, else the reason why not.

    "\frac{1}{2}", "(C)", "#### 42" -> None; "" -> "the row has no reference answer: ''"; "see the figure!" -> why.
    """
    try:
        gold = normalise(reference_answer(answer))
        form = read(gold) if parse_number(gold) is None else None
    except ValueError as error:  # Unreadable is one
        return str(error)
    return None if form is None or agree(form, form) else f"{excerpt(gold)} does not equal itself"


# ------------------------------------------------------------------------------------------------ comparing


def same_answer(one: str, other: str, *, percent: str = "strict") -> bool:
    """Whether two answers agree (1/2 = 0.5, 1,000 = 1000, 50% != 50). Raises Unreadable when that cannot be said."""
    return _agree(normalise(one), normalise(other), percent)


def _agree(one: str, gold: str, percent: str) -> bool:
    """same_answer for texts that are already normalised."""
    return _agree_plainly(one, gold) or same_mathematics(one, gold, percent=percent)


def _agree_plainly(one: str, gold: str) -> bool:
    """Whether two normalised texts are the same text or the same exact number: this settles most, and is fast."""
    if one == gold:
        return True
    number = parse_number(one)
    return number is not None and number == parse_number(gold)


def same_mathematics(one: str, gold: str, *, percent: str = "strict") -> bool:
    r"""Whether two normalised texts are the same mathematics. Raises Unreadable when one cannot be read.

    "(1, 2]", "(1, 2)" -> False; "\sqrt{8}", "2\sqrt{2}" -> True.
    """
    try:
        wanted = read(gold)
    except Unreadable as error:
        if len(one) <= MAX_LENGTH >= len(gold) and text_key(one) == text_key(gold):
            return True
        raise Unreadable(f"the reference cannot be read as mathematics: {error}") from error
    if wanted.kind in ("number", "letter", "words", "base"):  # Only another such will do: nothing is parsed.
        if len(one) > MAX_LENGTH:
            return False
        text, variable = without_variable(tidy(one))
        given = read_simple(text, wordy=wanted.kind == "words")
        return (
            given is not None and _variables_agree(variable, wanted.variable) and agree(given, wanted, percent=percent)
        )
    try:
        return agree(read(one), wanted, percent=percent)
    except Unreadable as error:
        raise Unreadable(f"the answer cannot be read as mathematics: {error}") from error


def _copied(given: str, gold: str, prompt: str) -> bool:
    """Whether an answer that equals the reference is an expression of the prompt, still to be simplified."""
    text = text_key(split_unit(tidy(given))[0])
    if len(text) < MIN_COPIED or _symbols(given) == _symbols(gold) or not _holds_expression(read(given)):
        return False
    return stands_in(text, prompt)


def _symbols(text: str) -> str:
    r""" "x = \frac{\pi}{2}" and "\pi/2" -> "pi2/": two equal answers with the same symbols differ in notation alone."""
    body = split_unit(without_variable(tidy(text))[0])[0]
    return re.sub(r"\\frac|[ {}/\\]", "", body) + "/" * (body.count("\\frac") + body.count("/"))


def _holds_expression(form: Form) -> bool:
    return form.kind == "expression" or any(map(_holds_expression, form.parts))


def _variables_agree(one: str, gold: str) -> bool:
    return not one or not gold or one == gold


def agree(one: Form, gold: Form, *, percent: str = "strict") -> bool:
    """Whether an answer's Form is the reference's; see the top of the file."""
    if not _variables_agree(one.variable, gold.variable) or not _units_agree(one.unit, gold.unit):
        return False
    if one.number and gold.number:
        return _numbers_agree(one.number, gold.number, percent)
    if one.kind in ("number", "expression") and gold.kind == "expression":
        return _expressions_agree(one, gold)
    if one.kind != gold.kind or one.text != gold.text or len(one.parts) != len(gold.parts):
        return False
    if one.kind not in ("set", "union"):
        return all(agree(a, b, percent=percent) for a, b in zip(one.parts, gold.parts, strict=True))
    left = list(one.parts)
    for part in gold.parts:
        found = next((i for i, other in enumerate(left) if agree(other, part, percent=percent)), None)
        if found is None:
            return False
        del left[found]
    return True


def _units_agree(one: str, gold: str) -> bool:
    if not one or one == gold:
        return True
    return not gold and one.partition("^")[0] in UNITS.values()


def _numbers_agree(one: Number, gold: Number, percent: str) -> bool:
    if percent == "strict" or one.percent == gold.percent:
        return one == gold
    plain, share = (gold, one) if one.percent else (one, gold)
    return plain.value in (share.value, share.value / 100)


# ------------------------------------------------------------------------------------------------ expressions

_POINTS = (
    (353, 97, 211, 619),
    (149, 431, 83, 271),
    (577, 313, 457, 127),
    (-281, 173, -367, -89),
    (-67, -229, 541, 401),
)
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def _expressions_agree(one: Form, gold: Form) -> bool:
    """Whether two expressions or relations are the same: by their values, else by math-verify's judgement."""
    from sympy import Expr
    from sympy.core.relational import Relational

    a, b = _expression(one), _expression(gold)
    if a == b:
        return True
    if isinstance(a, Expr) and isinstance(b, Expr):
        pairs = _values(a, b)
        if pairs:
            return all(_close(x, y) for x, y in pairs)
        if not a.free_symbols and not b.free_symbols:
            return False  # infinity against a number
    elif isinstance(a, Relational) and isinstance(b, Relational):
        ratios = [x / y for x, y in _values(a.lhs - a.rhs, b.lhs - b.rhs) if y != 0 and x != 0]
        if len(ratios) > 1 and all(_close(ratio, ratios[0]) for ratio in ratios):
            # a multiple of the same equation; of an inequality, its sign decides the direction
            return b.rel_op == a.rel_op if ratios[0].is_positive else b.rel_op == _FLIPPED.get(a.rel_op)
    else:  # A relation is not a value.
        return False
    if max(len(one.text), len(gold.text)) > MAX_SOLVED or re.search(r"\^ ?\{?[0-9]{2}", one.text + gold.text):
        return False
    from math_verify import verify

    return bool(verify(b, a, timeout_seconds=None))


def _expression(form: Form) -> Basic:
    """The sympy expression of a number or an expression."""
    from sympy import Rational

    if form.expression is not None:
        return form.expression
    assert form.number is not None
    value: Fraction = form.number.value / (100 if form.number.percent else 1)
    return Rational(value.numerator, value.denominator)


def _values(one: Expr, gold: Expr) -> list[tuple[Expr, Expr]]:
    """The values of two expressions at fixed points, to 30 digits, where both have one.

    Three points are positive, where sqrt(xy) = sqrt(x) sqrt(y). Two have negatives, which tell |x| from x; there only
    real values count. The letter i is the imaginary unit.
    """
    from sympy import I, Rational

    symbols = one.free_symbols | gold.free_symbols
    names = sorted({str(symbol) for symbol in symbols})
    pairs = []
    for point in _POINTS if names else _POINTS[:1]:
        at = {name: Rational(point[k % 4] + 1000 * (k // 4), 128) for k, name in enumerate(names)} | {"i": I}
        given = {symbol: at[str(symbol)] for symbol in symbols}
        x, y = one.evalf(30, subs=given), gold.evalf(30, subs=given)
        if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
            continue
        if min(point) > 0 or "i" in names or (x.is_real and y.is_real):
            pairs.append((x, y))
    return pairs


def _close(x: Expr, y: Expr) -> bool:
    """Equal to 15 digits of the 30."""
    from sympy import Float

    scale = max(abs(x).evalf(15), abs(y).evalf(15))
    return bool(abs(x - y).evalf(15) <= Float("1e-15") * scale + Float("1e-24"))
