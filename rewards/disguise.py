r"""The question in disguise: an answer that is an expression of the prompt, only written otherwise.

A prompt that shows an expression equal to the reference, in another shape, asks to rewrite it: to expand, factor,
simplify, or solve for a letter. There, equal is not enough:

    the answer is written as the question is, and the reference is not          refused
    the answer's shape is the question's, order, + 0, times 1 and 2/2 aside      refused
    the answer is the reference but for sums of numbers that are left undone    refused
    the reference is expanded, the question is not, the answer is not           refused
    the reference is a sum, the answer a product of sums                        refused
    the question is a sum, the reference has more factors than the answer       refused
    the question is longer than the reference, the answer as long as it         refused
    the reference is solved for a letter, the answer is not                     refused
    anything else that is equal                                                 paid
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from rewards.comparing import relation_of
from rewards.equality import same_relation, same_value
from rewards.expressions import FUNCTIONS
from rewards.extract import normalise
from rewards.intervals import expression_of
from rewards.mathematics import Form, read
from rewards.nodes import Node, Unreadable
from rewards.shape import factor_count, is_expanded, is_sum, shape, size

MAX_PROMPT, MAX_CANDIDATES = 4000, 60
"""Characters at the end of a prompt, and expressions in them, that are looked at."""

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MARKS = re.compile(r"<\|[^<>|]{0,40}\|>|</?[a-z]+>|[`\"“”]|\*\*|(?<![a-zA-Z0-9)}])['*]|['*](?=\s|$)|=\s*\?")
_BARS = re.compile(r"\||\\[lr]?vert")
_LETTERS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_LEADING = r"(?: (?:is|was|are|were|be|will|would|the|a|an|its|their|his|her|approximate|total|overall|average|net))"
_ASKS_FOR_PERCENT = re.compile(
    rf"\b(?:what|which|by how many|how many){_LEADING}{{0,4}} percent(?:age)?s?\b"
    r"|\b(?:as|in|to|into|nearest)(?: (?:a|an|the|whole|nearest|tenth of a))* percent(?:age)?s?\b(?! of\b)"
    r"|\b(?:find|determine|calculate|compute|give|express|state|report|write|estimate)(?: [a-z']+){0,5}? "
    r"percent(?:age)?\b"
    r"|百分之几|百分之多少|百分比|百分率",
    re.IGNORECASE,
)


def asks_for_percent(prompt: str) -> bool:
    """Whether a question wants a percentage: "What percent of ..?", but not "What is 20 percent of 50?"."""
    return bool(prompt) and _ASKS_FOR_PERCENT.search(prompt[-MAX_PROMPT:].strip()) is not None


def is_disguised(given: str, gold: str, prompt: str) -> bool:
    """Whether an answer that equals the reference is the question, still to be answered. Texts are normalised."""
    try:
        one, wanted = read(given), read(gold)
    except Unreadable:  # it was equal as a text
        return False
    if _BARS.search(given) and _BARS.search(prompt) and not _BARS.search(gold):
        return True  # an absolute value that is still to be resolved
    shown = _shown(prompt[-MAX_PROMPT:])
    if relation_of(wanted) is not None and relation_of(one) is not None:
        return _is_unsolved(one, wanted, shown)
    pairs = list(_pairs(one, wanted))
    return any(_is_question(answer, reference, question) for answer, reference in pairs for question in _nodes(shown))


# ------------------------------------------------------------------------------------------------ the prompt


@lru_cache(maxsize=256)
def _shown(prompt: str) -> tuple[Form, ...]:
    """The expressions and relations of a prompt, in formulas and in plain text."""
    found: dict[Form, None] = {}
    for text in _candidates(prompt):
        for piece in (text, *re.split(r",(?![0-9]{3})|;", text)):
            if len(found) >= MAX_CANDIDATES:
                return tuple(found)
            try:
                found[read(normalise(piece.strip(" .,;:?")))] = None
            except Unreadable:
                continue
    return tuple(found)


def _candidates(prompt: str) -> Iterator[str]:
    for match in _FORMULA.finditer(prompt):
        yield next(filter(None, match.groups()))
    run: list[str] = []
    for word in [*_MARKS.sub(" ", _FORMULA.sub(" ; ", prompt)).split(), ";"]:
        if _is_formula(word):
            run.append(word)
            if word[-1] not in ".,;?!:":
                continue
        yield " ".join(run).rstrip(".,;?!:")
        yield from (part.rstrip(".,;?!:") for part in run if len(part) > 2)
        run = []


def _is_formula(word: str) -> bool:
    """Whether a word of plain text may be a part of a formula: "(x+1)", "sqrt(8)", "x"; not "of"."""
    return word != ";" and all(letters.lower() in FUNCTIONS | {"pi"} for letters in _LETTERS.findall(word))


def _leaves(form: Form) -> Iterator[Form]:
    if form.kind in ("number", "expression"):
        yield form
    for part in form.parts:
        yield from _leaves(part)


def _nodes(shown: tuple[Form, ...]) -> Iterator[Node]:
    """The expressions of the prompt that have something to rewrite; of an equation, both sides."""
    for form in shown:
        if form.kind == "relation" and form.expression is not None:
            yield from (side for side in form.expression.args if size(side) > 1)
        for leaf in _leaves(form):
            if (node := expression_of(leaf)) is not None and (size(node) > 1):
                yield node


def _pairs(one: Form, gold: Form) -> Iterator[tuple[Node, Node]]:
    """Each expression of the answer, with that of the reference that it equals."""
    golds = [node for leaf in _leaves(gold) if (node := expression_of(leaf)) is not None]
    for leaf in _leaves(one):
        node = expression_of(leaf)
        equal = [other for other in golds if leaf.kind == "expression" and node is not None and _is_same(node, other)]
        if node is not None and equal:
            yield node, equal[0]


def _is_same(one: Node, other: Node) -> bool:
    try:
        return same_value(one, other)
    except Unreadable:
        return False


# ------------------------------------------------------------------------------------------------ the verdict


def _is_question(answer: Node, gold: Node, question: Node) -> bool:
    """Whether the answer is the question's expression, and not the reference's; see the top of the file."""
    if answer == question and answer != gold and _is_same(question, gold):
        return True
    plain, wanted, asked = shape(answer), shape(gold), shape(question)
    if plain == wanted or wanted == asked or not _is_same(question, gold):
        return False
    if plain == asked:
        return True
    folded = shape(question, folded=True)
    if folded != shape(gold, folded=True) and shape(answer, folded=True) == folded:
        return True
    if shape(answer, folded=True) == shape(gold, folded=True) and size(answer) > size(gold):
        return True
    if is_expanded(gold) and not is_expanded(question) and not is_expanded(answer):
        return True
    if is_sum(gold) and not is_sum(answer) and not is_expanded(answer):
        return True
    if is_sum(question) and factor_count(gold) > max(factor_count(question), factor_count(answer)):
        return True
    return size(answer) >= size(question) > size(gold)


def _is_unsolved(one: Form, gold: Form, shown: tuple[Form, ...]) -> bool:
    """Whether the answer is a relation of the prompt in another arrangement than the reference wants."""
    answer, wanted = relation_of(one), relation_of(gold)
    assert answer is not None
    assert wanted is not None
    solved = gold.kind != "relation"
    for form in shown:
        asked = relation_of(form)
        if asked is None or _arranged(asked) == _arranged(wanted) or not _is_same_relation(asked, wanted):
            continue
        if solved and form.kind == "relation" and one.variable != gold.variable:
            return True
        if _arranged(answer) == _arranged(asked) and _arranged(answer) != _arranged(wanted):
            return True
    return False


def _arranged(relation: Node) -> object:
    return relation.op, sorted(repr(shape(side, folded=True)) for side in relation.args)


def _is_same_relation(one: Node, other: Node) -> bool:
    try:
        return same_relation(one, other)
    except Unreadable:
        return False
