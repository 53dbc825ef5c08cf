"""Modules of the folder where aha is run: a recipe names its own tasks and rewards by them."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import rl
from rl.types import BadInput

OURS = ("launch", "recipes", "rewards", "rl")
LIBRARIES = ("datasets", "deepspeed", "numpy", "ray", "torch", "transformers", "vllm", "wandb")


def import_from_here() -> None:
    """Let the modules of the working folder be imported, here and in every worker.

    They are found before all others, in Ray's workers too. So one that has the name of a package of Aha's, or of a
    library, would take its place: raises BadInput. A folder without __init__.py takes no package's place.
    """
    here = os.getcwd()
    importlib.invalidate_caches()
    for name in (*OURS, *LIBRARIES):
        found = PathFinder.find_spec(name, [here])
        if found is None or found.origin is None or (name in OURS and _is_ours(Path(found.origin))):
            continue
        whose = "Aha's own package" if name in OURS else "the library"
        file = Path(found.origin)
        raise BadInput(
            f"{file.parent if file.name == '__init__.py' else file}: in the folder where aha runs, a module with this "
            f"name takes the place of {whose} {name}; rename it, or run aha from another folder"
        )
    if here not in sys.path:
        sys.path.insert(0, here)


def _is_ours(file: Path) -> bool:
    return file.resolve().is_relative_to(Path(rl.__file__).resolve().parents[1])
