"""What the agent's children do: run the candidate's code, or the check program, and hand over plain values.

These functions are sent into the sandbox as source (rewards/code_agent.py), so they use nothing but one another and
the modules that the agent imports.
"""

from __future__ import annotations

import builtins
import marshal
import os
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, TypedDict


class Job(TypedDict):
    """What the agent is sent (rewards/code_run.py): a program, the form of its tests, and its limits.

    The agent reads it as a plain dict: nothing of ours can be imported in the sandbox.
    kind: "io", "call" or "check". binary: of a program in C++, else empty. nodes: names of the classes whose objects
    may go between candidate and check program. packages: those to load before the children start. path: where they are.
    count: of tests. stop: at the first failure. output: bytes. host_pids: the process namespace outside the sandbox.
    """

    kind: str
    entry_point: str
    code: str
    binary: bytes
    setup: str
    starters: str
    nodes: list[str]
    packages: list[str]
    path: list[str]
    count: int
    stop: bool
    test_s: float
    memory_mb: int
    recursion: int
    output: int
    host_pids: str


class RunningJob(Job):
    """The job in the agent. first: its starters, compiled. contained: it has a process namespace of its own.

    children: the processes that the test at hand has started.
    """

    first: CodeType
    contained: bool
    children: list[int]


class CheckTest(TypedDict):
    """A test of the kind "check": a check program, and what is defined before it."""

    program: str
    starters: str


def _take(fd: int) -> Any:
    """The next frame. Not a byte more is read: a candidate is forked before the check program is in this memory."""
    size = int(os.read(fd, 12))
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return marshal.loads(data)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _report(fd: int, failure: str, output: bytes) -> None:
    """One pair for read_results."""
    why = failure.encode(errors="replace")
    _write(fd, b"%012d%012d" % (len(why), len(output)) + why + output)


def _send(fd: int, *values: Any) -> None:
    """One line of JSON."""
    import json

    _write(fd, json.dumps(values).encode() + b"\n")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


# ------------------------------------------------------------------------------------------------ the candidate


def _load(job: RunningJob, name: str) -> Callable[[str], Any]:
    """Run the candidate's code as a module: what finds its functions, "f", "Solution.f" or "Solution().f". A function
    "f" that it does not define may be a method of its Solution.

    Before it come the starter names and the row's setup; what that defines by the entry point's name, as HumanEval's
    prompt does, is no answer and goes.
    """
    module = type(sys)(name)
    sys.modules[name] = module
    sys.argv = ["main.py"]
    sys.setrecursionlimit(job["recursion"])
    exec(job["first"], module.__dict__)
    exec(compile(job["setup"], "setup.py", "exec", dont_inherit=True), module.__dict__)
    if job["kind"] != "io":
        module.__dict__.pop(job["entry_point"].replace("()", "").partition(".")[0], None)
        module.__dict__.pop("Solution", None)
    exec(compile(job["code"], "main.py", "exec", dont_inherit=True), module.__dict__)

    def find(path: str) -> Any:
        if "." not in path and path not in vars(module) and path in dir(vars(module).get("Solution")):
            path = f"Solution.{path}"  # rows name the method alone, answers in LeetCode's form have its class
        found: Any = module
        for part in path.replace("()", "").split("."):
            found = getattr(found() if isinstance(found, type) else found, part)
        return found

    return find


def _program(job: RunningJob, out: int, test: Any) -> None:
    """The candidate as a program from stdin to stdout."""
    if job["binary"]:
        os.execv("./program", ["program"])
    _load(job, "__main__")


def _callee(job: RunningJob, out: int, tests: list[Any]) -> None:
    """The candidate as a function: one report for each of the tests, which are its arguments."""
    import json

    find, broken = None, ""
    try:
        find = _load(job, "solution")
    except BaseException as error:  # SystemExit too: whatever it is, it is reported
        broken = _said(error)
    for test in tests:
        output = b""
        failure = broken
        if find is not None:
            try:
                output = json.dumps(_call(find, job["entry_point"], test), default=_plain).encode()
            except BaseException as error:
                failure = _said(error)
        _report(out, failure, output)


def _call(find: Callable[[str], Any], path: str, test: Any) -> Any:
    """What the function gives for a test's arguments; lists become linked lists and trees where it asks for those."""
    function = find(path)
    try:
        hints, code = function.__annotations__, function.__code__
    except AttributeError:  # not written in Python, or an object that can be called
        hints, code = {}, None
    names = code.co_varnames[: code.co_argcount] if code else ()
    if type(function).__name__ == "method":
        names = names[1:]
    if isinstance(test, dict):
        found = function(**{name: _as_nodes(value, hints.get(name), find) for name, value in test.items()})
    else:
        wanted = [hints.get(name) for name in names[: len(test)]]
        wanted += [None] * (len(test) - len(wanted))
        found = function(*[_as_nodes(value, hint, find) for value, hint in zip(test, wanted, strict=True)])
    if found is None and _node_class(hints.get("return")):
        return []
    return found


def _node_class(hint: Any) -> str:
    text = hint if isinstance(hint, str) else str(hint)
    return "ListNode" if "ListNode" in text else "TreeNode" if "TreeNode" in text else ""


def _as_nodes(value: Any, hint: Any, find: Callable[[str], Any]) -> Any:
    """[1, 2] for Optional[ListNode] -> a linked list; level order for TreeNode; a list of them for List[ListNode]."""
    name = _node_class(hint)
    if not name or not isinstance(value, list):
        return value
    text = hint if isinstance(hint, str) else str(hint)
    if "ist[" in text:
        return [_as_nodes(item, name, find) for item in value]
    module = sys.modules["solution"]
    make = module.__dict__[name]
    nodes: list[Any] = [None if item is None else make(item) for item in value]
    if name == "ListNode":
        for place in range(1, len(nodes)):
            nodes[place - 1].next = nodes[place]
        return nodes[0] if nodes else None
    rest = iter(nodes[1:])
    for node in nodes:
        if node is not None:
            node.left = next(rest, None)
            node.right = next(rest, None)
    return nodes[0] if nodes else None


def _plain(value: Any) -> Any:
    """For json: numpy's values, and linked lists and trees as LeetCode writes them. TypeError for others."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    name = type(value).__name__
    if name == "ListNode":
        found, seen = [], set()
        while value is not None:
            if id(value) in seen:
                raise ValueError("the linked list goes in a circle")
            seen.add(id(value))
            found.append(value.val)
            value = value.next
        return found
    if name == "TreeNode":
        order, values = [value], []
        for node in order:
            values.append(None if node is None else node.val)
            if node is not None:
                order += [node.left, node.right]
            if len(order) > 1_000_000:
                raise ValueError("the tree has no end")
        while values and values[-1] is None:
            values.pop()
        return values
    raise TypeError(f"a {name} is no result that can be compared; give plain values")


# ------------------------------------------------------------------------------------------------ the check program


def _serve(job: RunningJob, out: int, ask_read: int, reply_write: int) -> None:
    """The candidate, for a check program: answer [name, arguments] with [error, value], line by line."""
    import json

    os.dup2(1, 2)
    os.close(out)
    find, broken = None, ""
    try:
        find = _load(job, "solution")
    except BaseException as error:  # SystemExit too: whatever it is, the check program is told
        broken = _said(error)
    with os.fdopen(ask_read, "rb") as questions:
        for line in questions:
            name, given = json.loads(line)
            reply = [broken, "null"]
            if find is not None:
                try:
                    args, kwargs = _unpack(given, _classes(job, sys.modules["solution"].__dict__))
                    reply = ["", json.dumps(_pack(find(name)(*args, **kwargs), job["nodes"]))]
                except BaseException as error:
                    reply = [_said(error), "null"]
            _send(reply_write, *reply)


def _classes(job: Job, scope: dict[str, Any]) -> dict[str, type]:
    """The classes of a module whose objects may go between the two processes."""
    return {name: scope[name] for name in job["nodes"] if isinstance(scope.get(name), type)}


def _checker(job: RunningJob, out: int, test: CheckTest, ask_write: int, reply_read: int) -> None:
    """Run the check program on a stand-in for the candidate; write "passed" when check() returns."""
    import json

    sys.setrecursionlimit(job["recursion"])
    replies = os.fdopen(reply_read, "rb")
    scope = type(sys)("tests").__dict__

    def remote(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _send(ask_write, name, _pack((args, kwargs), job["nodes"]))
            line = replies.readline()
            if not line:
                raise RuntimeError("the program ended")
            error, value = json.loads(line)
            if error:
                raise RuntimeError(str(error))
            return _unpack(json.loads(value), _classes(job, scope))

        return call

    exec(test["starters"], scope)
    exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), scope)
    candidate = scope[job["entry_point"]] = remote(job["entry_point"])
    codes = [compile(test["program"], "<tests>", "exec", dont_inherit=True)]
    program = codes[0]
    while codes:  # a name that nobody else defines is the candidate's
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, type(program))]
        for name in code.co_names:
            if name not in scope and name not in dir(builtins):
                scope[name] = remote(name)
    exec(program, scope)
    scope["check"](candidate)
    os.write(out, b"passed")


# ------------------------------------------------------------------------------------------------ values


def _pack(value: Any, classes: Any = ()) -> Any:
    """A plain value as JSON that keeps its type; TypeError for others. (1, {2}) -> {"t": [1, {"s": [2]}]}.

    Objects of the classes go too, as {"o": [value, objects]}: each with its attributes, in which {"r": 3} is object 3.
    """
    objects: list[Any] = []
    places: dict[int, int] = {}
    found = _packed(value, classes, objects, places)
    rows = []
    for thing in objects:  # it grows while its own attributes are looked at
        attributes = [[key, _packed(item, classes, objects, places)] for key, item in vars(thing).items()]
        rows.append([type(thing).__name__, attributes])
    return {"o": [found, rows]} if rows else found


def _packed(value: Any, classes: Any, objects: list[Any], places: dict[int, int]) -> Any:
    if type(value).__module__ == "numpy":
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_packed(item, classes, objects, places) for item in value]
    if isinstance(value, dict):
        pairs = value.items()
        return {"d": [[_packed(part, classes, objects, places) for part in pair] for pair in pairs]}
    for tag, kind in (("t", tuple), ("s", set), ("f", frozenset), ("b", bytes)):
        if isinstance(value, kind):
            return {tag: [_packed(item, classes, objects, places) for item in value]}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if type(value).__name__ in classes:
        if id(value) not in places:
            places[id(value)] = len(objects)
            objects.append(value)
        return {"r": places[id(value)]}
    raise TypeError(f"a {type(value).__name__} cannot be handed to the check program")


def _unpack(value: Any, classes: Any = ()) -> Any:
    """The value that _pack was given. Whatever the JSON holds, only plain values and objects of the classes come of it,
    which are found by name (a dict).
    """
    if not isinstance(value, dict) or "o" not in value:
        return _unpacked(value, [])
    value, rows = value["o"]
    objects = []
    for name, _ in rows:
        if name not in classes:
            raise TypeError(f"a {name} cannot be handed over: no such class is defined here")
        objects.append(object.__new__(classes[name]))
    for thing, (_, attributes) in zip(objects, rows, strict=True):
        for key, item in attributes:
            object.__setattr__(thing, key, _unpacked(item, objects))
    return _unpacked(value, objects)


def _unpacked(value: Any, objects: list[Any]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, objects) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, items),) = value.items()
    if tag == "r":
        return objects[items]
    items = _unpacked(items, objects)
    if tag == "c":
        return complex(*items)
    return {"d": dict, "t": tuple, "s": set, "f": frozenset, "b": bytes}[tag](items)
