"""Texts of the command line become values of a type (read); values of Python or JSON are of that type (type_fault).

Nothing is guessed. A text is read as HOW says, or refused in one line. A value in a recipe or in JSON is never
converted: 2 is a number, but 2.0 is no whole number, a Path is no text, a list is no tuple, and numpy's int64 is none
of Python's. The fault says what to write. Types are Python's annotations; pydantic checks them in its strict mode.
Loads no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import enum
import json
import numbers
import os
import pathlib
import re
import sys
import types
import typing
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rl.settings.annotations import Notation, choices_of, cut, is_free, items_of, parts_of, wanted
from rl.types import BadInput

if TYPE_CHECKING:
    from pydantic import TypeAdapter

HOW = r"""How to write values (the shell needs single quotes around those with double quotes or spaces):
  true, false     also yes, no, 1, 0
  whole numbers   1000 or 1_000; neither 1e3 nor 1000.0
  numbers         0.5, 3e-6, -2; neither nan nor inf
  texts           as they stand, or in double quotes with JSON's escapes: prompts.system='"two\nlines"'; double quotes
                  are needed where the text could mean something else: "null", "None", "\n"
  lists           rollout.stop='User:,</answer>'; with a comma in an item rollout.stop='["a,b", "c"]' or '"a,b",c';
                  with no items rollout.stop=
  null            for None, where a parameter of recipe() or of a reward may be None; also none and None
"""

BOOLEANS = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}
_WHOLE = re.compile(r"[+-]?\d+(_\d+)*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_ESCAPE = re.compile(r'\\([ntr"\\]|u[0-9a-f]{4}|x[0-9a-f]{2})', re.IGNORECASE)
_ITEM = re.compile(r'( *"(?:[^"\\]|\\.)*" *|[^,]*)(,|\Z)', re.DOTALL)
_NOT_PYTHON = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


class _Unfit(Exception):
    """The text is no value of the type. Its own text: what to write, or nothing."""


def read(text: str, hint: object, key: str) -> object:
    """The value of type `hint` that a text stands for. Raises BadInput, one line, that begins with key=text."""
    try:
        return _adapter(hint).validate_json(_spell(text, hint), strict=True)
    except _Unfit as unfit:
        advice = f"; {unfit}" if str(unfit) else ""
        raise BadInput(f"{key}={cut(one_line(text))}: expected {wanted(hint)}{advice}") from None


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
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=each_key_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Raises ValueError for a key that is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


# ------------------------------------------------------------------------------------------------ values


def type_fault(value: object, hint: object, notation: Notation) -> str:
    """Why a value of Python or JSON is not of type hint, and what to write if that is clear; "" for one that is.

    ("16", int) -> "expected a whole number; write 16"
    """
    if _is(value, hint):
        return ""
    meant = next((m for m in _perhaps_meant(value, hint) if _is(m, hint)), None)
    return f"expected {wanted(hint, notation)}" + (f"; write {notation.shown(meant)}" if meant is not None else "")


def _is(value: object, hint: typing.Any) -> bool:
    # What is plainly of its type needs no pydantic.
    if hint is float and type(value) is int:
        return abs(value) <= sys.float_info.max
    if type(value) is hint:
        return True
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    if type(value) is tuple and typing.get_origin(hint) is tuple:
        return all(_is(item, typing.get_args(hint)[0]) for item in value)
    try:
        made = _adapter(hint, finite=False).validate_python(value, strict=True)
    except ValueError:  # pydantic's ValidationError is one
        return False
    return isinstance(value, type(made))  # numpy's float32 is none of Python's, which JSON needs


def _perhaps_meant(value: object, hint: object) -> Iterator[object]:
    """What the author may have meant by a value of another type, the likeliest first."""
    yield (value,)
    if isinstance(value, list | set | frozenset):
        yield tuple(value)
    if isinstance(value, os.PathLike | numbers.Number) and not isinstance(value, bool):
        yield str(value)
    if isinstance(value, numbers.Real) and abs(typing.cast(float, value)) < 1e15:
        number = float(value)
        yield from (bool(number),) if number in (0, 1) else ()
        yield from (int(number),) if number.is_integer() else ()
        yield number
    if isinstance(value, str):
        try:
            yield read(value, hint, "")
        except BadInput:
            return


# ------------------------------------------------------------------------------------------------ texts


def _adapter(hint: typing.Any, *, finite: bool = True) -> TypeAdapter[object]:
    # pydantic takes as long to load as a recipe, and most recipes need none of it: so it is loaded here.
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter
    from pydantic.warnings import ArbitraryTypeWarning

    try:
        with warnings.catch_warnings(action="error", category=ArbitraryTypeWarning):
            return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=not finite))
    except (PydanticUserError, ArbitraryTypeWarning) as error:
        if isinstance(error, PydanticUserError) and error.code == "type-adapter-config-unused":
            return TypeAdapter(hint)  # a dataclass or the like, whose config is its own
        raise _Unfit(f"{hint!r} is no type that a text can be read as") from error


def _fits(spelled: str, hint: object) -> bool:
    adapter = _adapter(hint)
    try:
        load_json(spelled)
        adapter.validate_json(spelled, strict=True)
    except ValueError:
        return False
    return True


def _spell(text: str, hint: object) -> str:
    """The text in JSON's spelling, for a value of type hint: yes -> true, a,b -> ["a","b"]. Raises _Unfit."""
    bare, parts, quoted = text.strip(), parts_of(hint), json.dumps(text)
    if _fits(bare, hint):
        return bare
    respelled = [spelling for spelling in _respelled(bare, parts) if _fits(spelling, hint)]
    if any(is_free(part) or part is str or _is_path(part) for part in parts):
        _refuse_doubtful(text, bare, respelled)
        if any(map(is_free, parts)):
            _refuse_python(bare)
        if not _fits(quoted, hint):
            raise _Unfit("it is no valid Unicode")
        return quoted
    if _fits(quoted, hint):
        return quoted
    if respelled:
        return respelled[0]
    for part in parts:
        if (items := items_of(part)) is not None:
            return _spell_list(text, items, hint)
    raise _Unfit(_advice(bare, parts))


def _advice(bare: str, parts: list[object]) -> str:
    """What may have been meant by a text that does not fit, or ""."""
    if int in parts and _NUMBER.fullmatch(bare) and abs(float(bare)) < 1e15 and float(bare).is_integer():
        return f"in digits: {int(float(bare))}"
    near = difflib.get_close_matches(bare, [choice for part in parts for choice in choices_of(part)], n=1)
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
    if bare.startswith('["') or _is_list(bare):
        raise _Unfit("in brackets it is read as JSON, and does not fit")
    if bare in ("null", "None"):
        raise _Unfit(f'write nothing after the = for no items, or "{bare}" in double quotes for the word')
    if item_hints == [typing.Any]:
        raise _Unfit("write a list as JSON" if len(items) > 1 else "")
    if not all(items):
        raise _Unfit('an item is empty; leave it out, or write "" in double quotes')
    hints = item_hints * len(items) if len(item_hints) == 1 else item_hints
    if len(hints) != len(items):
        raise _Unfit(f"there are {len(hints)}, not {len(items)}")
    if any(items_of(part) is not None for item_hint in hints for part in parts_of(item_hint)):
        raise _Unfit("write a list of lists as JSON")
    if str in item_hints and re.search(r" ,|, ", ",".join("" if item.strip()[:1] == '"' else item for item in items)):
        raise _Unfit("leave out the spaces beside the commas, or put the items that have them in double quotes")
    spelled = "[" + ",".join(map(_spell_item, items, hints)) + "]"
    if not _fits(spelled, hint):
        raise _Unfit
    return spelled


def _spell_item(text: str, hint: object) -> str:
    try:
        return _spell(text, hint)
    except _Unfit as unfit:
        advice = f"; {unfit}" if str(unfit) else ""
        raise _Unfit(f"of its item {text}: expected {wanted(hint)}{advice}") from None


def _split(text: str) -> list[str]:
    """a,"b,c" -> [a, "b,c"], quotes kept; an empty text has no items."""
    items, at, goes_on = list[str](), 0, bool(text)
    while goes_on and (found := _ITEM.match(text, at)):
        items.append(found[1])
        at, goes_on = found.end(), found[2] == ","
    return items


def _is_list(bare: str) -> bool:
    """Whether it is a list in JSON, or a list or tuple in Python with its brackets."""
    try:
        return bare[:1] in ("[", "(") and isinstance(ast.literal_eval(bare), list | tuple)
    except _NOT_PYTHON:
        return bare[:1] == "[" and _fits(bare, list)


def _refuse_doubtful(text: str, bare: str, respelled: list[str]) -> None:
    """Raise _Unfit for a text without quotes that may have been meant otherwise."""
    quoted = json.dumps(text, ensure_ascii=False)
    if respelled:
        raise _Unfit(f"write {respelled[0]}, or {quoted} in double quotes for the text")
    if bare in ("null", "None"):
        raise _Unfit(f'write "" for an empty text, or {quoted} in double quotes for the word')
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
    except _NOT_PYTHON:
        if bare.lower() not in ("true", "false", "none", "null", "nan", "infinity"):
            return
    raise _Unfit(f"write true, false, null, numbers and lists as JSON does, or {json.dumps(bare)} for the text")
