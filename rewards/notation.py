r"""One spelling for each thing: Unicode signs, LaTeX's many spaces and fonts, and words such as "and" become one form.

Texts only: nothing here reads mathematics. The order of the steps matters, each relies on those before it.
"""

from __future__ import annotations

import re

from rewards.expressions import FUNCTIONS
from rewards.nodes import OF_SEVERAL, Unreadable
from rewards.quantities import SEPARATORS, is_unit

MAX_LENGTH = 300
"""Of a text that is more than a number, in characters."""

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUPERSCRIPT = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_ROOT = re.compile(r"√ ?([0-9]+|[A-Za-z])")
_FRACTIONS = {"½": "12", "⅓": "13", "⅔": "23", "¼": "14", "¾": "34", "⅕": "15", "⅙": "16", "⅛": "18"}
_LATEX = re.compile(r"\\\\|\\[,;:!| ]|\\[A-Za-z]+|~|\*\*|[<>]=|[π∞∪∩≤≥⩽⩾≦≧≠×·⋅•∙÷√±∈∅ℝθ⟨⟩∖°½⅓⅔¼¾⅕⅙⅛]")
_SPACES = ("\\,", "\\;", "\\:", "\\!", "\\ ", "~", "\\quad", "\\qquad", "\\thinspace", "\\enspace")
_NOTHING: tuple[str, ...] = ("\\displaystyle", "\\textstyle", "\\limits", "\\left", "\\right", "\\middle")
_FRAMES = re.compile(r"\\(?:underline|fbox|framebox) ?\{([^{}]*)\}")
_OLD_FONTS = re.compile(r"\{ ?\\(?:rm|bf|it|sf|tt) ?([^{}\\]*)\}|\\(?:rm|bf|it|sf|tt) ?\{([^{}]*)\}")
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_OUTSIDE = re.compile(r"([\[\]])([^\[\](){}]*[,;][^\[\](){}]*)([\[\]])")
_TO = re.compile(r"([0-9]+) ?(?:\\text ?\{ ?to ?\}|to) ?([0-9]+)")
_IN_BASE = re.compile(r"([0-9A-F]+),? ?(?:\\text ?\{ ?)?\(?(?:in )?base[- ]([0-9]{1,2}|[a-z]{3,7})\)?(?: ?\})?")
_FEET = re.compile(r"([0-9]+) ?['′] ?([0-9.]+) ?(?:\"|''|″)")
_UNIT_FRACTION = re.compile(
    r"\\frac ?\{ ?\\text ?\{([^{}]+)\} ?\} ?\{ ?\\text ?\{([^{}]+)\}(?: ?\^ ?\{?([23])\}?)? ?\}"
)
_UNIT_POWER = re.compile(r"\\text ?\{ ?([A-Za-z]+)[ .]+([A-Za-z]+) ?\^ ?\{? ?-([123]) ?\}? ?\}?")
_NOTHING += tuple(f"\\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m"))
_TEXT: tuple[str, ...] = (
    "\\mbox",
    "\\textbf",
    "\\textrm",
    "\\textit",
    "\\textnormal",
    "\\textsf",
    "\\texttt",
    "\\emph",
)
_TEXT += ("\\mathrm", "\\mathbf", "\\mathit", "\\mathsf", "\\operatorname", "\\boldsymbol", "\\bm", "\\hbox")
_TIDIED = {sign: command for command, signs in {
    r"\le ": ("\\leq", "\\leqslant", "≤", "⩽", "≦", "<="), r"\ge ": ("\\geq", "\\geqslant", "≥", "⩾", "≧", ">="),
    r"\ne ": ("\\neq", "\\not=", "≠"), r"\pi ": ("π",), r"\infty ": ("∞",), r"\cup ": ("∪", "\\bigcup"),
    r"\times ": ("×",), r"\cdot ": ("·", "⋅", "•", "∙", "\\ast", "\\bullet"), "/": ("÷", "\\div"), r"\sqrt ": ("√",),
    r"\pm ": ("±",), r"\in ": ("∈",), r"\emptyset ": ("∅", "\\varnothing"), r"\reals ": ("ℝ", "\\R", "\\Reals"),
    r"\theta ": ("θ",), "(": ("⟨", "\\langle"), ")": ("⟩", "\\rangle"), r"\setminus ": ("∖", "\\backslash"),
    "\\frac": ("\\dfrac", "\\tfrac", "\\cfrac"), "\\binom": ("\\dbinom", "\\tbinom"), "|": ("\\vert", "\\mid", "\\|"),
    r"\lor ": ("\\vee",), r"\land ": ("\\wedge",), "^": ("**",), "\\text": _TEXT, " ": _SPACES, "": _NOTHING,
    "^\\circ ": ("°",), r"\circ ": ("\\degree",), "%": ("\\%",), ":": ("\\colon",),
    "\\{": ("\\lbrace",), "\\}": ("\\rbrace",),
}.items() for sign in signs} | {sign: rf"\frac{digits}" for sign, digits in _FRACTIONS.items()}  # fmt: skip
_REALS = re.compile(r"\\mathbb ?\{? ?R ?\}?")
_TEXT_FUNCTION = re.compile(rf"\\text ?\{{ ?({'|'.join(sorted(FUNCTIONS, reverse=True))}) ?\}}")
_OF_SEVERAL = re.compile(
    r"(?:\\text ?\{{ ?({0}) ?\}}|(?<![\\A-Za-z])({0}))(?= ?(?:\(|\\\{{))".format("|".join(OF_SEVERAL))
)
"""Only before brackets: "5 min" is a time."""
_TEXT_LETTER = re.compile(r"(?P<before>[0-9A-Za-z)\]}] ?|^|[-+*/=({^,] ?)\\text ?\{ ?(?P<letter>[a-z]) ?\}")
_TEXT_JOIN = re.compile(r"\\text ?\{(?P<before>[^{}]*?) ?(?<![A-Za-z])(?P<join>and|or) ?(?P<after>[^{}]*)\}")
_TEXT_SIGN = re.compile(r"\\text ?\{ ?([:,;]) ?\}")
_CHOOSE = re.compile(r"\{([^{}]*?) ?\\choose ?([^{}]*)\}")
_INTEGER_LETTER = re.compile(
    r"(?<=[A-Za-z0-9)}\]])(?:, ?| *\(| +|, ?\\text ?\{ ?where ?\} ?)[a-z] ?\\in ?(?:\\mathbb ?\{? ?[ZN] ?\}?|[ZN])\)?$"
)
_UNITS = re.compile(r"\\text ?\{([^{}]+)\} ?(?P<join>\\cdot|/|) ?\\text ?\{([^{}]+)\}")
_EITHER = r"\\text ?\{{ ?(?:{0}) ?\}}|(?<![A-Za-z\\])(?:{0})(?![A-Za-z])"
_AND = re.compile(rf" ?,? ?(?:{_EITHER.format('and')}|\\text ?\{{ ?[且和与] ?\}}|[且和与]) ?")
_OR = re.compile(rf" ?,? ?(?:{_EITHER.format('or')}|\\text ?\{{ ?或者? ?\}}|或者?) ?")
_THOUSANDS = re.compile(r"(?<![0-9,.])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?= ?(?:\\(?!\\|land|lor)|[a-z]))")
_SUBSCRIPT = re.compile(r"_([A-Za-z0-9])(?![0-9])")
_DOUBLE_BRACES = re.compile(r"\{ ?\{([^{}]*)\} ?\}")
_BRACED_QUOTIENT = re.compile(
    r"(?<![\\A-Za-z0-9)}\]^_ ])[({] ?([0-9.]+) ?[)}] ?/ ?[({] ?([0-9.]+) ?[)}](?! ?[\^({!A-Za-z0-9\\])"
)
_KEY_BRACES = re.compile(r"([_^])\{([A-Za-z0-9])\}")
_KEY_SPACES = re.compile(r"(?<![0-9]) | (?![0-9])")


def tidy(text: str) -> str:
    """The text in one spelling (see respelled). Raises Unreadable when it is too long."""
    if len(text) > MAX_LENGTH:
        raise Unreadable(f"{len(text)} characters, more than {MAX_LENGTH}")
    return respelled(text)


def respelled(text: str) -> str:
    r"""One spelling for each thing: "\left(\dfrac12,\;π\right)" -> "(\frac12, \pi)"; "1 or 2" -> "1 \lor 2"."""
    text = _OUTSIDE.sub(_usual_brackets, _FEET.sub(r"\1 ft \2 in", SEPARATORS.sub(",", text)))
    if based := _IN_BASE.fullmatch(text):
        text = f"{based[1]}_{{{based[2]}}}"
    text = _FRAMES.sub(r"{\1}", _OVER.sub(r"\\frac{\1}{\2}", _OLD_FONTS.sub(_text, text)))
    text = _SUPERSCRIPT.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m.group()) + "}", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = _LATEX.sub(lambda match: _TIDIED.get(match.group(), match.group()), text)
    text = _REALS.sub(r"\\reals ", text)
    text = _UNIT_POWER.sub(_unit_power, _UNIT_FRACTION.sub(_unit_fraction, text))
    if whole := _TO.fullmatch(text.strip()):
        text = f"{whole[1]}:{whole[2]}"
    text = _OF_SEVERAL.sub(lambda match: f"\\{match[1] or match[2]} ", text)
    text = _TEXT_LETTER.sub(_plain_letter, _TEXT_FUNCTION.sub(r"\\\1 ", text))
    text = _TEXT_JOIN.sub(_joined_texts, _TEXT_SIGN.sub(r"\1", _SUBSCRIPT.sub(r"_{\1}", text)))
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", _INTEGER_LETTER.sub("", _UNITS.sub(_one_unit, _UNITS.sub(_one_unit, text))))
    text = _OR.sub(r" \\lor ", _AND.sub(r" \\land ", " ".join(text.split())))
    text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text).strip()
    while (single := _DOUBLE_BRACES.sub(r"{\1}", text)) != text:
        text = single
    return _BRACED_QUOTIENT.sub(r"\1/\2", without_outer_braces(text))


def _text(match: re.Match[str]) -> str:
    content = match[1] if match[1] is not None else match[2]
    return f"\\text{{{content}}}"


def _usual_brackets(match: re.Match[str]) -> str:
    """ "]1, 5[" -> "(1, 5)": a bracket that looks away leaves the end out."""
    left, inner, right = match.groups()
    if left == "[" and right == "]":
        return match.group()
    return ("(" if left == "]" else "[") + inner + (")" if right == "[" else "]")


def _unit_fraction(match: re.Match[str]) -> str:
    r""" "\frac{\text{m}}{\text{s}^2}" -> "\text{m/s^2}"."""
    return f"\\text{{{match[1]}/{match[2]}}}" + (f"^{match[3]}" if match[3] else "")


def _unit_power(match: re.Match[str]) -> str:
    r""" "\text{m s^{-1}}" -> "\text{m/s}"."""
    return f"\\text{{{match[1]}/{match[2]}}}" + (f"^{match[3]}" if match[3] != "1" else "")


def _plain_letter(match: re.Match[str]) -> str:
    r""" "3\mathrm{i}" -> "3i": an upright letter is a letter, but for those that are units (5\text{ m})."""
    name = match["letter"]
    alone = match.start() == 0 and match.end() == len(match.string)
    if name not in "ie" and (alone or is_unit(name)):
        return match.group()
    return match["before"] + name


def _joined_texts(match: re.Match[str]) -> str:
    r"""A unit and a conjunction in one \text: "5\text{ hours and }30" -> "5\text{hours} \text{and} 30"."""
    before, after = match["before"].strip(), match["after"].strip()
    if (not before and not after) or (bool(before) != bool(after) and not is_unit(before or after)):
        return match.group()
    first, last = (f"\\text{{{part}}} " if part else "" for part in (before, after))
    return f"{first}\\text{{{match['join']}}} {last}"


def _one_unit(match: re.Match[str]) -> str:
    r""" "\text{kg} \cdot \text{m} / \text{s}" -> "\text{kg m/s}", after two rounds."""
    first, second = match[1].strip(), match[3].strip()
    if not (is_unit(first) and is_unit(second)):
        return match.group()
    return f"\\text{{{first}{'/' if match['join'] == '/' else ' '}{second}}}"


def without_outer_braces(text: str) -> str:
    """ "{42}" -> "42": LaTeX's own braces. "{1, 2}" and "{1}{2}" stay."""
    while text.startswith("{") and text.endswith("}") and not text.endswith("\\}"):
        depth = 0
        for i, sign in enumerate(text):
            escaped = sign in "{}" and text[i - 1] == "\\"
            depth += 0 if escaped else (sign in "([{") - (sign in ")]}")
            if depth == 0 and i < len(text) - 1:
                return text
            if depth == 1 and sign in ",|:":  # a set
                return text
        text = text[1:-1].strip()
    return text


def text_key(text: str) -> str:
    """The tidy text without spaces and needless braces, for comparing: "x^{2} + 1" -> "x^2+1". "4 2" is not "42"."""
    return _KEY_SPACES.sub("", _KEY_BRACES.sub(r"\1\2", tidy(text)))
