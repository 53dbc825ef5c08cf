"""A hash of what a name stands for: of a model folder's content, or of a Python function's module.

Of a function, the sources of all modules count that its own one imports from the same top-level package.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from pathlib import Path

from rl.config import MODEL
from rl.data.rows import TASK
from rl.types import BadInput

CHUNK = 1 << 22


def path_hash(text: str) -> str:
    """A hash of a model folder's content, of the module of a function in Python, or of a Hub id's text.

    Raises BadInput for a module that is not there.
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


def _module_hash(module: str, text: str) -> str:
    """Of the module's source and of what it imports from the same top-level package, and so on."""
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


def _imports(file: Path, package: str) -> list[str]:
    """Modules that the source of a module of the package imports; of `from a import b`, both a and a.b: it may be one.

    In package "a.b", `from .c import d` is a.b.c and a.b.c.d, `from .. import d` is a and a.d.
    """
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return names


def file_hash(file: Path) -> str:
    stat = file.stat()
    return _hash_of(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash_of(file: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file's bytes; size and time only tell whether it was read before."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
