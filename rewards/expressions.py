r"""Read one expression, equation or inequality: a text of LaTeX or of plain signs -> a tree of Nodes.

Nothing is evaluated or simplified here, so reading takes time in proportion to the text; rewards/values.py finds what a
tree is worth. What is no mathematics, or has more than one reading, is refused with a reason (Unreadable).

    "2\sqrt{3}x"       a product of 2, a root and x    "1/2x"       1 over 2x: a product without a sign binds first
    "\sin 2x"          the sine of 2x                  "\sin(x)y"   the sine of x, times y
    "x_1", "\vec{v}"   names of their own              "i", "e"     the imaginary unit and Euler's number
    "\log x"           to the base 10                  "30^\circ"   30 times pi/180
"""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.nodes import EULER, GREEK, IMAGINARY, INFINITY, OF_SEVERAL, PI, RELATIONS, Node, Unreadable, letter, number

__all__ = ["ENGLISH", "FUNCTIONS", "NAMES", "Unreadable", "bracket_step", "read_expression"]

MAX_DIGITS, MAX_DEPTH, MAX_TOKENS = 60, 40, 300

FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "ln", "log", "lg", "exp", "sqrt"}
FUNCTIONS |= {"arcsin", "arccos", "arctan", "abs"}
NAMES = FUNCTIONS | GREEK | {"pi", "infty"}
_MARKS = {"\\vec", "\\overrightarrow", "\\widehat", "\\hat", "\\bar", "\\overline", "\\tilde"}
_TIMES = ("*", "\\cdot", "\\times")
_PAIRS = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lvert": "\\rvert", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_BRACKET_OPS = {"|": "abs", "\\lvert": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}
_ANGLE = {"sin", "cos", "tan", "cot", "sec", "csc"}
_COMMANDS = {"\\pi": PI, "\\infty": INFINITY, "\\imath": IMAGINARY} | {f"\\{n}": letter(f"\\{n}") for n in GREEK}
_BARE = re.compile(
    rf"(?<![\\A-Za-z])({'|'.join(sorted(FUNCTIONS | {'pi', 'infty', 'theta'}, reverse=True))})(?![A-Za-z])"
)
ENGLISH = {"not", "is", "the", "if", "for", "in", "no", "yes", "to", "of", "it", "any", "all", "nan", "inf", "none"}
_SIGNS = re.compile(r"[A-Za-z0-9+\-*/^_=<>()\[\]{}|!.,\\ ]*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\S")
_POWER_OF_TEN = re.compile(r"(?<![A-Za-z0-9_.])([0-9]+(?:\.[0-9]+)?|\.[0-9]+)[eE]([+-]?[0-9]{1,4})(?![0-9A-Za-z.^_])")


def read_expression(text: str) -> tuple[str, Node]:
    r"""An expression as it is meant, and its tree: "sin x" -> ("\sin  x", the sine of x). Raises Unreadable."""
    text = _BARE.sub(r"\\\1 ", _POWER_OF_TEN.sub(r"(\1*10^{\2})", text))
    if not _SIGNS.fullmatch(text):
        raise Unreadable(f"a character that is no mathematics: {next(c for c in text if not _SIGNS.fullmatch(c))!r}")
    words = _WORD.findall(re.sub(r"_ ?\{[^{}]*\}", "", text))
    if word := next((w for w in words if len(w) > 4 or w.lower() in ENGLISH), None):
        raise Unreadable(f"the word {word!r}")
    if any(len(digits) > MAX_DIGITS for digits in re.findall("[0-9]+", text)):
        raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
    if "!=" in text:
        raise Unreadable("!=, which is unequal or the end of a factorial")
    return text, _Reader(text).whole()


def bracket_step(symbol: str) -> int:
    """1 for what opens a bracket, -1 for what closes one, else 0."""
    if symbol in ("(", "[", "{", "\\{") or symbol.startswith("\\begin"):
        return 1
    return -1 if symbol in (")", "]", "}", "\\}") or symbol.startswith("\\end") else 0


class _Reader:
    """Reads by recursive descent. `next` is the next token; every method takes the tokens of what it reads."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.at, self.depth = 0, 0
        self.running: list[str] = []  # the letters of the sums that are open: \\sum_{i=1}^n i has no imaginary unit
        self.closing: list[str] = []  # the ends of the brackets that are open: a | may open or close
        if len(self.tokens) > MAX_TOKENS:
            raise Unreadable(f"{len(self.tokens)} signs, more than {MAX_TOKENS}")

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """The next token when it is one of those wanted, else ""."""
        if not self.next or self.next not in wanted:
            return ""
        self.at += 1
        return self.tokens[self.at - 1]

    def unexpected(self) -> Unreadable:
        if not self.next:
            return Unreadable("it ends too early")
        return Unreadable(
            f"the command {self.next}" if self.next[0] == "\\" else f"{self.next!r} where it cannot stand"
        )

    # ------------------------------------------------------------------------------------ sums and products

    def whole(self) -> Node:
        found = self.sum()
        if relation := self.take(*RELATIONS):
            found = Node(RELATIONS[relation], (found, self.sum()))
        if self.next in RELATIONS:
            raise Unreadable("several relations in one")
        if self.next:
            raise self.unexpected()
        return found

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("brackets nested too deeply")
        terms = [self.product(self.take("+", "-"))]
        while sign := self.take("+", "-"):
            term = self.product(self.take("+", "-"))
            terms.append(_negative(term) if sign == "-" else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def product(self, sign: str = "") -> Node:
        found = self.run()
        while True:
            if self.take(*_TIMES):
                found = _product([found, self.signed_run()])
            elif self.take("/"):
                found = Node("/", (found, self.signed_run()))
            else:
                return _negative(found) if sign == "-" else found

    def signed_run(self) -> Node:
        return _negative(self.run()) if self.take("+", "-") == "-" else self.run()

    def run(self, *, argument: bool = False) -> Node:
        """Factors without a sign between them: 2x(y+1). argument: of a function; the next function ends it."""
        factors = [self.factor()]
        while self.starts_factor():
            if self.next[0] in "0123456789." and self.tokens[self.at - 1] != "}":
                raise Unreadable("two numbers side by side, or a number behind a letter")
            if argument and self.next[1:] in FUNCTIONS - {"sqrt"}:
                break
            mixed = self.next == "\\frac"
            whole, part = factors[-1], self.factor()
            if mixed and whole.op == "number" and _is_proper(part) and whole.value == int(whole.value or 0):
                factors[-1] = Node("+", (whole, part))  # 1\frac{4}{5}
            else:
                factors.append(part)
        return _product(factors)

    def starts_factor(self) -> bool:
        token = self.next
        if token == "|":
            return not self.closing or self.closing[-1] != "|"
        if token[:1] == "\\":
            return token not in RELATIONS and token not in _TIMES and token not in (*_PAIRS.values(), "\\}")
        return token[:1].isalnum() or token[:1] == "." or token in ("(", "[", "{")

    def factor(self) -> Node:
        found = self.base()
        while True:
            if self.take("^"):
                if self.is_degree():
                    found = _product([found, Node("/", (PI, number(180)))])
                    continue
                found = Node("^", (found, self.exponent()))
                if self.next == "^":
                    raise Unreadable("a tower of powers")
            elif self.take("!"):
                found = Node("!!" if self.take("!") else "!", (found,))
                if self.next == "!":
                    raise Unreadable("a factorial of a factorial")
            elif self.next == "_":
                raise Unreadable("two numbers side by side" if found.op == "number" else "'_' behind a bracket")
            else:
                return found

    def is_degree(self) -> bool:
        if self.take("\\circ"):
            return True
        if self.tokens[self.at : self.at + 3] == ["{", "\\circ", "}"]:
            self.at += 3
            return True
        return False

    def exponent(self) -> Node:
        if sign := self.take("+", "-"):
            return _negative(self.base()) if sign == "-" else self.base()
        return self.base()

    # ------------------------------------------------------------------------------------ what stands alone

    def base(self) -> Node:
        token = self.next
        if token in _PAIRS:
            self.at += 1
            return self.bracket(token)
        if token[:1] in tuple("0123456789."):
            if token == ".":
                raise self.unexpected()
            self.at += 1
            return number(Fraction(token))
        if token in _MARKS:
            return self.marked()
        if re.fullmatch("[A-Za-z]", token) or token in _COMMANDS:
            return self.named()
        if token in ("\\frac", "\\binom"):
            self.at += 1
            return Node("/" if token == "\\frac" else "binom", (self.argument(), self.argument()))
        if token in ("\\sum", "\\prod"):
            return self.series()
        if token[1:] in OF_SEVERAL:
            return self.of_several()
        if token[:1] == "\\" and token[1:] in FUNCTIONS:
            self.at += 1
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise Unreadable("functions nested too deeply")
            found = self.root() if token == "\\sqrt" else self.function(token[1:])
            self.depth -= 1
            return found
        raise self.unexpected()

    def bracket(self, opening: str) -> Node:
        closing = _PAIRS[opening]
        self.closing.append(closing)
        found = self.sum()
        if not self.take(closing):
            raise self.unexpected() if self.next else Unreadable("brackets that do not pair")
        self.closing.pop()
        return Node(_BRACKET_OPS[opening], (found,)) if opening in _BRACKET_OPS else found

    def of_several(self) -> Node:
        r"""\max(a, b), \gcd\{12, 18\}."""
        op = self.take(self.next)[1:]
        closing = {"(": ")", "\\{": "\\}"}.get(self.take("(", "\\{"))
        if closing is None:
            raise Unreadable(f"\\{op} without brackets")
        args = [self.sum()]
        while self.take(","):
            args.append(self.sum())
        if not self.take(closing):
            raise self.unexpected()
        return Node(op, tuple(args)) if len(args) > 1 else args[0]

    def argument(self) -> Node:
        """What \\frac takes: braces, or one sign: \\frac12."""
        if self.next[:1].isdigit() and len(self.next) > 1 and self.next.isdigit():
            digit, self.tokens[self.at] = self.next[0], self.next[1:]
            return number(int(digit))
        return self.base()

    def named(self) -> Node:
        """A letter, with its index: x_1, x_{max}, \\alpha."""
        token = self.take(self.next)
        if self.take("_"):
            return letter(f"{token}_{self.index()}")
        if token in _COMMANDS:
            return _COMMANDS[token]
        constant = {"e": EULER, "i": IMAGINARY}.get(token)
        return constant if constant and token not in self.running else letter(token)

    def marked(self) -> Node:
        r"""\vec{v}, \overline{AB}: a name with a mark."""
        mark = self.take(self.next)
        body = self.index()
        if not re.fullmatch(r"[A-Za-z]{1,4}", body):
            raise Unreadable(f"the command {mark}")
        return letter(f"{mark}{{{body}}}" + (f"_{self.index()}" if self.take("_") else ""))

    def index(self) -> str:
        """Letters and digits in braces, or one sign."""
        if not self.take("{"):
            token = self.take(self.next)
            if not token.isalnum() and token not in _COMMANDS:
                raise Unreadable("an index that is no letter or number")
            return token
        start = self.at
        while self.next and self.next != "}":
            self.at += 1
        body = "".join(self.tokens[start : self.at])
        if not self.take("}") or not re.fullmatch(r"[A-Za-z0-9,+\-\\]{1,12}", body):
            raise Unreadable("an index that is no letter or number")
        return body

    def root(self) -> Node:
        degree = number(2)
        if self.take("["):
            degree = self.bracket("[")
        return Node("root", (degree, self.base()))

    def function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = number(10) if name in ("log", "lg") else None
        while mark := self.take("^", "_"):
            if mark == "^":
                power = self.exponent()
            elif name == "log":
                base = self.argument()
            else:
                raise Unreadable(f"an index of {name}")
        if power == _negative(number(1)):
            name, power = f"arc{name}", None
            if name not in FUNCTIONS:
                raise Unreadable(f"{name[3:]}^{{-1}}, an inverse or a reciprocal")
        arg = self.function_argument(name)
        found = Node("log", (base, arg)) if base else Node(name, (arg,))
        return Node("^", (found, power)) if power else found

    def function_argument(self, name: str) -> Node:
        """Brackets, or the factors that follow: \\sin(x)y is y sin x, \\sin 2x the sine of 2x, \\sin\\pi/6 of pi/6."""
        if self.next in ("(", "[", "{", "|", "\\lvert"):
            return self.base()
        arg = self.signed_argument()
        after = self.tokens[self.at + 1 : self.at + 2]
        if name in _ANGLE and self.next == "/" and after and after[0][:1].isdigit():
            self.at += 1
            arg = Node("/", (arg, self.base()))
        return arg

    def signed_argument(self) -> Node:
        if self.take("-"):
            return _negative(self.run(argument=True))
        return self.run(argument=True)

    def series(self) -> Node:
        r"""\sum_{k=1}^{n} of the product that follows."""
        op = self.take(self.next)[1:]
        lower = self.take("_") and self.take("{")
        name = self.take(self.next) if lower else ""
        if not re.fullmatch("[A-Za-z]", name) or not self.take("="):
            raise Unreadable(f"\\{op} without its first index, as in \\{op}_{{k=1}}^{{n}}")
        first = self.bracket("{")
        if not self.take("^"):
            raise Unreadable(f"\\{op} without its last index")
        last = self.exponent()
        self.running.append(name)
        inner = self.product()
        self.running.pop()
        return Node(op, (first, last, inner), name=name)


def _negative(node: Node) -> Node:
    return Node("-", (node,))


def _product(factors: list[Node]) -> Node:
    return factors[0] if len(factors) == 1 else Node("*", tuple(factors))


def _is_proper(node: Node) -> bool:
    """Whether it is a fraction of whole numbers below one, which a whole number may stand before."""
    if node.op != "/" or any(arg.op != "number" for arg in node.args):
        return False
    top, bottom = (arg.value or Fraction(0) for arg in node.args)
    return 0 < top < bottom and top.denominator == bottom.denominator == 1
