r"""Whether a text shows anything once LaTeX has set it: \text{}, \, and \phantom{1} show nothing, \pi and 42 do."""

from __future__ import annotations

import re
import unicodedata

_LOOKS_EMPTY = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols without ink
_INK = frozenset("LNPS")  # letters, numbers, punctuation, symbols: the rest is marks, spaces, control characters
_TOKEN = re.compile(
    r"(?P<environment>\\(?:begin|end)\s{0,4}\{[A-Za-z]{1,20}\*?\}(?:\{[lcr|@ ]{0,20}\})?)"
    r"|(?P<length>\\(?:[hvm]?kern|[hvm]skip)\s{0,4}-?[0-9.]{1,8}\s{0,4}[a-z]{2})"
    r"|(?P<delimiter>\\(?:left|right|middle)\s{0,4}\.)"
    r"|\\(?P<command>[A-Za-z]+)\*?|\\(?P<escaped>.)|(?P<comment>%[^\n]*)|(?P<sign>.)",
    re.DOTALL,
)
_HIDES = {"phantom": 1, "hphantom": 1, "vphantom": 1, "hspace": 1, "vspace": 1, "label": 1, "tag": 1, "color": 1}
_HIDES |= {"textcolor": 1, "rule": 2, "raisebox": 1, "pagecolor": 1, "colorbox": 1, "ref": 1, "hypertarget": 1}
"""Commands -> how many arguments they do not show."""
_SHOWS_NOTHING = {
    *("text", "textbf", "textit", "textrm", "textnormal", "textsf", "texttt", "textsc", "emph", "mbox", "hbox", "fbox"),
    *("mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathcal", "mathbb", "mathfrak", "boldsymbol", "bm", "boxed"),
    *("operatorname", "ensuremath", "displaystyle", "textstyle", "scriptstyle", "scriptscriptstyle", "rm", "bf", "it"),
    *("left", "right", "middle", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "limits", "nolimits"),
    *("quad", "qquad", "enspace", "thinspace", "medspace", "thickspace", "negthinspace", "hfill", "vfill", "hfil"),
    *("null", "relax", "strut", "mathstrut", "nobreak", "allowbreak", "smash", "noindent", "par", "newline", "break"),
    *("frac", "dfrac", "tfrac", "cfrac", "sqrt", "overline", "underline", "bar", "hat", "vec", "tilde", "dot", "space"),
    *("large", "Large", "small", "tiny", "normalsize", "huge", "Huge", "centering", "nonumber", "notag", "sout"),
}
_ESCAPED_INK = frozenset("{}%$#_&|")
_STRUCTURE = frozenset("{}$^_&~")


def has_ink(character: str) -> bool:
    """Whether one sees anything: no whitespace, control, zero-width or filler character."""
    return unicodedata.category(character)[0] in _INK and character not in _LOOKS_EMPTY


def shows_something(text: str) -> bool:
    r""" "42", "\pi", "\{\}" -> True; "", "\text{ }", "\,", "\phantom{1}", "{}" -> False. Takes linear time."""
    hidden: list[bool] = []  # of each open brace
    arguments = 0  # of the last command, still to come, that are not shown
    for token in _TOKEN.finditer(text):
        command, sign = token["command"], token["sign"]
        seen = not (hidden and hidden[-1]) and not arguments
        if command is not None:
            if command in _HIDES:
                arguments = _HIDES[command]
            elif seen and command not in _SHOWS_NOTHING:
                return True
        elif sign == "{":
            hidden.append(bool(arguments) or bool(hidden and hidden[-1]))
            arguments -= bool(arguments)
        elif sign == "}":
            if hidden:
                hidden.pop()
        elif token["escaped"] is not None:
            if seen and token["escaped"] in _ESCAPED_INK:
                return True
        elif sign is not None and has_ink(sign) and sign not in _STRUCTURE:
            if seen:
                return True
            arguments -= bool(arguments) and not (hidden and hidden[-1])
    return False
