r"""A text becomes a value of the type that is wanted, or is refused in one line. Loads no torch.

What is typed is meant, so nothing is guessed:

    true, false     also yes, no, 1, 0, in either case
    whole numbers   digits alone, 10_400 too: 1000, not 1e3, 1000.0 or 0x3e8
    numbers         3e-6, .5, -2; no nan and no infinity
    texts           as they stand, spaces too, or in double quotes as in JSON: "\n" is a line break
    lists           a,b or JSON's ["a,b", "c"]; a comma in an item needs double quotes; empty: no items
    null            where nothing is a value too; none and None say the same
    all others      as JSON

A text that stands without quotes and is easily taken for something else (null, \n, 'a') is refused with both ways of
writing it. Types are Python's annotations, checked by pydantic in its strict mode.
"""

from __future__ import annotations

import ast
import collections.abc
import difflib
import enum
import json
import pathlib
import re
import types
import typing

from pydantic import ConfigDict, PydanticUserError, TypeAdapter

from rl.types import BadInput

BOOLEANS = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}
_WHOLE = re.compile(r"[+-]?\d+(_\d+)*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_ESCAPE = re.compile(r'\\([ntr"\\]|u[0-9a-f]{4}|x[0-9a-f]{2})', re.IGNORECASE)
_ITEM = re.compile(r'("(?:[^"\\]|\\.)*"|[^,]*)(,|$)', re.DOTALL)
_CONFIG = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)


class _Unfit(Exception):
    """The text is no value of the type. Its own text: what to write, or nothing."""


def read(text: str, hint: object, key: str) -> object:
    """The value of type `hint` that a text stands for. Raises BadInput, one line, that begins with key=text."""
    try:
        return _adapter(hint).validate_json(_spell(text, hint), strict=True)
    except _Unfit as unfit:
        advice = f"; {unfit}" if str(unfit) else ""
        raise BadInput(f"{key}={one_line(text)}: expected {wanted(hint)}{advice}") from None


def key_and_text(item: str) -> tuple[str, str]:
    """ "limit=3" -> ("limit", "3"). Spaces on both sides of the first = are no part of the value: "limit = 3"."""
    key, _, text = item.partition("=")
    return key.strip(), text.lstrip(" ") if key.endswith(" ") else text


def one_line(text: str) -> str:
    """A text as it stands, or with escapes where it would not be one line."""
    return text if text.isprintable() else repr(text)[1:-1]


def load_json(text: str) -> object:
    """The value of a JSON text. Raises ValueError for another, and for what is not JSON: NaN, a key given twice."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_each_key_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


def wanted(hint: object) -> str:
    """A type in words: int | None -> "a whole number or null"."""
    names = [_name(part) for part in _parts(hint)]
    return " or ".join(dict.fromkeys(names))


def _name(part: object) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", types.NoneType: "null"}
    if isinstance(part, type) and part in words:
        return words[part]
    if choices := _choices(part):
        return f"one of {', '.join(choices)}"
    if (items := _items(part)) is not None:
        each = [wanted(item) for item in items]
        plural = {"a text": "texts", "a whole number": "whole numbers", "a number": "numbers"}
        of = plural.get(each[0], each[0]) if len(each) == 1 else " and ".join(each)
        return "a list" if items == [typing.Any] else f"a list of {of}"
    if _is_free(part):
        return "JSON or a text"
    origin = typing.get_origin(part) or part
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return "a JSON object"
    return origin.__name__ if isinstance(origin, type) else str(part)


def _choices(part: object) -> list[str]:
    """The values of a Literal or an Enum, as they are typed."""
    if typing.get_origin(part) is typing.Literal:
        return [v if isinstance(v, str) else json.dumps(v, default=str) for v in typing.get_args(part)]
    if isinstance(part, type) and issubclass(part, enum.Enum):
        return [m.value if isinstance(m.value, str) else m.name for m in part]
    return []


def _parts(hint: object) -> list[object]:
    """The types of which a value may be one: int | None -> [int, NoneType]."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _parts(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return [part for arg in typing.get_args(hint) for part in _parts(arg)]
    if isinstance(hint, typing.NewType):
        return _parts(hint.__supertype__)
    return [types.NoneType if hint is None else hint]


def _is_free(part: object) -> bool:
    return part is typing.Any or part is object or isinstance(part, typing.TypeVar)


def _items(part: object) -> list[object] | None:
    """What a list's items are; of a tuple with items of different types, each one's. None: it is no list."""
    origin, args = typing.get_origin(part) or part, typing.get_args(part)
    if not isinstance(origin, type) or not issubclass(origin, collections.abc.Iterable):
        return None
    if issubclass(origin, str | bytes | collections.abc.Mapping | enum.Enum):
        return None
    return [arg for arg in args if arg is not Ellipsis] or [typing.Any]


def _adapter(hint: typing.Any) -> TypeAdapter[object]:
    try:
        return TypeAdapter(hint, config=_CONFIG)
    except PydanticUserError as error:
        if error.code == "type-adapter-config-unused":  # a dataclass or the like, whose config is its own
            return TypeAdapter(hint)
        raise _Unfit(f"{hint!r} is no type that a text can be read as") from error


def _fits(spelled: str, hint: object) -> bool:
    try:
        load_json(spelled)
        _adapter(hint).validate_json(spelled, strict=True)
    except ValueError:  # pydantic's ValidationError is one
        return False
    return True


def _spell(text: str, hint: object) -> str:
    """The text in JSON's spelling, for a value of type hint: yes -> true, a,b -> ["a","b"]. Raises _Unfit."""
    bare, parts, quoted = text.strip(), _parts(hint), json.dumps(text)
    if _fits(bare, hint):
        return bare
    respelled = [spelling for spelling in _respelled(bare, parts) if _fits(spelling, hint)]
    if any(_is_free(part) or part is str or _is_path(part) for part in parts):
        _refuse_doubtful(text, bare, respelled)
        if any(map(_is_free, parts)):
            _refuse_python(bare)
        if not _fits(quoted, hint):
            raise _Unfit("it is no valid Unicode")
        return quoted
    if _fits(quoted, hint):
        return quoted
    if respelled:
        return respelled[0]
    for part in parts:
        if (items := _items(part)) is not None:
            return _spell_list(text, items, hint)
    raise _Unfit(_advice(bare, parts))


def _advice(bare: str, parts: list[object]) -> str:
    """What may have been meant by a text that does not fit, or ""."""
    if int in parts and _NUMBER.fullmatch(bare) and abs(float(bare)) < 1e15 and float(bare).is_integer():
        return f"in digits: {int(float(bare))}"
    near = difflib.get_close_matches(bare, [choice for part in parts for choice in _choices(part)], n=1)
    return f"did you mean {near[0]}?" if near else ""


def _is_path(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, pathlib.PurePath)


def _respelled(bare: str, parts: list[object]) -> list[str]:
    """What else than JSON says null, true, false or a number here, in JSON's spelling."""
    out = []
    if types.NoneType in parts and bare.lower() in ("none", "null"):
        out.append("null")
    if bool in parts and bare.lower() in BOOLEANS:
        out.append(BOOLEANS[bare.lower()])
    for kind, form in ((int, _WHOLE), (float, _NUMBER)):
        if kind in parts and form.fullmatch(bare):
            try:
                out.append(json.dumps(kind(bare)))
            except ValueError:  # more digits than Python reads
                continue
    names = [p.__members__ for p in parts if isinstance(p, type) and issubclass(p, enum.Enum)]
    return out + [json.dumps(members[bare].value, default=str) for members in names if bare in members]


def _spell_list(text: str, item_hints: list[object], hint: object) -> str:
    """a,"b,c" -> ["a","b,c"] for items of the types item_hints, or all of the one. Raises _Unfit."""
    bare, items = text.strip(), _split(text)
    if bare.startswith('["') or _is_json_list(bare):
        raise _Unfit("in brackets it is read as JSON, and does not fit")
    if item_hints == [typing.Any]:
        raise _Unfit("write a list as JSON")
    if not all(items):
        raise _Unfit('an item is empty; leave it out, or write "" in double quotes')
    hints = item_hints * len(items) if len(item_hints) == 1 else item_hints
    if len(hints) != len(items):
        raise _Unfit(f"there are {len(hints)}, not {len(items)}")
    if any(_items(part) is not None for item_hint in hints for part in _parts(item_hint)):
        raise _Unfit("write a list of lists as JSON")
    if str in item_hints and re.search(r" ,|, ", ",".join("" if item.startswith('"') else item for item in items)):
        raise _Unfit("leave out the spaces beside the commas, or put the items that have them in double quotes")
    spelled = "[" + ",".join(_spell(item, item_hint) for item, item_hint in zip(items, hints, strict=True)) + "]"
    if not _fits(spelled, hint):
        raise _Unfit
    return spelled


def _split(text: str) -> list[str]:
    """a,"b,c" -> [a, "b,c"], quotes kept; an empty text has no items."""
    items, at, goes_on = list[str](), 0, bool(text)
    while goes_on:
        found = _ITEM.match(text, at)
        if found is None:
            raise _Unfit('an item that begins with a double quote ends with one, as in "a,b","c"')
        items.append(found[1])
        at, goes_on = found.end(), found[2] == ","
    return items


def _is_json_list(bare: str) -> bool:
    try:
        return isinstance(load_json(bare), list)
    except ValueError:
        return False


def _refuse_doubtful(text: str, bare: str, respelled: list[str]) -> None:
    """Raise _Unfit for a text without quotes that may have been meant otherwise."""
    quoted = json.dumps(text, ensure_ascii=False)
    if respelled:
        raise _Unfit(f"write {respelled[0]}, or {quoted} in double quotes for the text")
    if bare in ("null", "None"):
        raise _Unfit(f"write nothing after the = for an empty text, or {quoted} in double quotes for the word")
    if bare.startswith('"'):
        raise _Unfit(f"it begins like a text in double quotes and does not end so; write {quoted} for all of it")
    if len(bare) > 1 and bare[0] == bare[-1] == "'":
        raise _Unfit(f"quotes are double: write {json.dumps(bare[1:-1])}, or {quoted} to keep the single ones")
    if escape := _ESCAPE.search(text):
        raise _Unfit(
            f'write "{text}" in double quotes, as JSON, where {escape[0]} is one character, or {quoted} to keep the '
            "backslash"
        )


def _refuse_python(bare: str) -> None:
    """Raise _Unfit for a text that is Python's and not JSON's, where any type would do: "False" would be true."""
    try:
        ast.literal_eval(bare)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if bare.lower() not in ("true", "false", "none", "null", "nan", "infinity"):
            return
    raise _Unfit(f"write true, false, null, numbers and lists as JSON does, or {json.dumps(bare)} for the text")
