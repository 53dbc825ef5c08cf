"""Hashes of the things that settings name: the content of a model folder, or the source code of a Python function.

The hash of a function covers its module, and all modules of the same top-level package that this one imports, directly
or through others.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from pathlib import Path

from rewards import REFERENCE_CHECKS, REWARDS, ROW_CHECKS
from rl.config import MODEL
from rl.data.rows import TASK
from rl.types import BadInput

CHUNK = 1 << 22
"""Bytes of a file read at once."""


def path_hash(text: str) -> str:
    """Hash of a model folder's content, of the source of a Python function 'module:function', or of a Hub id's text.

    Raises BadInput when there is no such module.
    """
    if TASK.fullmatch(text):
        return _module_hash(text.partition(":")[0], text)
    folder = Path(text.removeprefix(MODEL))
    if not folder.is_dir():
        return hashlib.sha256(text.encode()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(folder)} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def is_built_in(function: str) -> bool:
    """Whether a reward is named as one of rewards.REWARDS: "accuracy"."""
    return function in REWARDS


def reward_hash(function: str) -> str:
    """Hash of a reward: of the source of its function, built in or one's own, or of its model's folder.

    Of a built-in reward's source, that counts which says what it pays: its module, what that imports of rewards/, and
    the checks of rows that belong to it.
    """
    if not is_built_in(function):
        return path_hash(function)
    parts = (REWARDS[function], REFERENCE_CHECKS.get(function), ROW_CHECKS.get(function))
    return hashlib.sha256(" ".join(path_hash(part) for part in parts if part is not None).encode()).hexdigest()


def _module_hash(module: str, text: str) -> str:
    files: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _source_of(name)
        if file is None:
            if name == module:
                raise BadInput(f"{text}: there is no module {name}; is the command run from the folder that holds it?")
            continue
        if name not in files:
            files[name] = file_hash(file)
            top = module.partition(".")[0] + "."
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            waiting += [imported for imported in _imports(file, package) if imported.startswith(top)]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _source_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _imports(file: Path, package: str) -> tuple[str, ...]:
    stat = file.stat()
    return _imports_of(file, package, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _imports_of(file: Path, package: str, size: int, mtime_ns: int) -> tuple[str, ...]:
    """Names of the modules that a file of the package imports. `from a import b` gives a and a.b: b may be a module.

    In package "a.b", `from .c import d` gives a.b.c and a.b.c.d, `from .. import d` gives a and a.d.
    size and mtime_ns are there for the cache alone, since parsing takes seconds for all rewards of a recipe.
    """
    names = []
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise BadInput(f"{file} line {error.lineno}: {error.msg}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(names))


def file_hash(file: Path) -> str:
    stat = file.stat()
    return _hash_of(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash_of(file: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file's bytes. size and mtime_ns are there for the cache alone: a changed file is read again."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
