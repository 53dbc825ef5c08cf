"""What a program may use without an import, as on LeetCode and the like: List, defaultdict, heappush, ListNode, ...

Only what a text mentions is imported, so a program that uses none of it starts as fast as ever.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable

_MODULES = frozenset((
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "io", "itertools",
    "json", "math", "operator", "os", "random", "re", "statistics", "string", "sys", "time", "typing",
))  # fmt: skip

_NAMES = {
    "typing": "Any Callable ClassVar DefaultDict Deque Dict Final FrozenSet Generator Generic Hashable Iterable "
    "Iterator List Literal Mapping MutableMapping NamedTuple NoReturn Optional Protocol Sequence Set Tuple Type "
    "TypeVar Union",
    "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
    "heapq": "heapify heappop heappush heappushpop heapreplace nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "math": "acos asin atan atan2 ceil comb cos cosh dist e exp fabs factorial floor fmod fsum gcd hypot inf isclose "
    "isfinite isinf isnan isqrt lcm log log10 log1p log2 nan perm pi prod radians sin sinh sqrt tan tanh tau trunc",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile groupby "
    "islice pairwise permutations product repeat starmap takewhile tee zip_longest",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce singledispatch total_ordering wraps",
    "operator": "add and_ attrgetter floordiv itemgetter mul neg or_ sub truediv xor",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits punctuation",
    "random": "choice choices randint randrange sample shuffle uniform",
    "copy": "deepcopy",
    "dataclasses": "dataclass field",
    "enum": "Enum IntEnum auto",
    "datetime": "date timedelta",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "io": "BytesIO StringIO",
    "statistics": "mean median mode",
    "sys": "maxsize setrecursionlimit stdin stdout",
    "re": "findall finditer fullmatch",
}
"""Module -> what is taken from it. A module's own name is the module (bisect, copy, datetime)."""

_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

NODES = {
    "ListNode": """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next
""",
    "TreeNode": """
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right
""",
}
"""Class -> its definition, as LeetCode gives it in a comment above the task."""

_WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_CLASS = re.compile(r"^[ \t]*class[ \t]+([A-Za-z_]\w*)", re.MULTILINE)


def starters(texts: Iterable[str]) -> str:
    """A program that defines the starter names that the texts mention.

    ["def f(a: List[int]): return math.gcd(*a)"] -> "import math\\nfrom typing import List\\n"
    """
    words = set().union(*(_WORD.findall(text) for text in texts)) - vars(builtins).keys()
    lines = [f"import {name}" for name in sorted(words & _MODULES)]
    lines += [f"from {_HOME[name]} import {name}" for name in sorted(words & _HOME.keys())]
    return "\n".join([*lines, *(NODES[name] for name in sorted(words & NODES.keys()))]) + "\n"


def node_classes(setup: str) -> list[str]:
    """Classes whose objects may go between a check program and the candidate: those that both have."""
    return sorted({*NODES, *_CLASS.findall(setup)})


def mentioned(modules: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Those of the modules that the texts mention."""
    words = set[str]().union(*(_WORD.findall(text) for text in texts))
    return sorted(words.intersection(modules))
