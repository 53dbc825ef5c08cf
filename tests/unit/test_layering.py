"""Who imports whom (the layers of rl/), and that the command line starts without the heavy libraries."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("rl", "rewards", "recipes", "launch", "tests")
HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "sympy", "math_verify", "py3langid", "openai")
LEVEL_0 = {"rl", "rl.config", "rl.recipe", "rl.settings", "rl.typed", "rl.types"}
ONLY_IN = {
    "ray": {
        "rl/workers/cluster.py",
        "rl/workers/examine.py",
        "rl/workers/gauges.py",
        "rl/workers/hosts.py",
        "rl/workers/remote.py",
        "rl/workers/scorers.py",
        "launch/submit.py",
    },
    "deepspeed": {
        "rl/workers/learner.py",
        "rl/workers/masters.py",
        "rl/workers/sharded.py",
        "rl/workers/ulysses.py",
    },
    "vllm": {"rl/workers/sampler.py", "rl/workers/precision.py", "rl/workers/weights.py"},
}


def imports_of(source: str, module: str, *, module_level: bool = False) -> set[str]:
    """Every module that source imports, as dotted names; `module` is its own name, for relative imports.

    Imports inside functions and under TYPE_CHECKING count too, unless module_level.
    A name that is itself a module of ours is named in full: `from rl import loss` gives rl.loss. (rl/__init__.py holds
    no names, so what comes from rl itself is always a module.)
    """
    tree = ast.parse(source)
    if module_level:
        tree.body = [n for n in tree.body if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if base == "rl" or is_module(name) else base for name in names}
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_in(name: str, packages: tuple[str, ...] | set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def allowed(path: str) -> tuple[str, ...]:
    """Which of our modules the file at path may import, with all that is inside them."""
    folder, _, name = path.rpartition("/")
    if path in ("rl/config.py", "rl/typed.py", "rl/__init__.py"):
        return ("rl.types",)
    if path == "rl/settings.py":
        return ("rl.config", "rl.types")
    if path == "rl/recipe.py":
        return ("rl.config", "rl.settings", "rl.types")
    if path == "rl/types.py":
        return ()
    if path == "rl/pipeline.py":
        return (*level_0_and_1(), "rl.stages", "rewards")
    if path == "rl/recipe_inputs.py":
        return (*level_0_and_1(), "rl.stages", "rl.pipeline")
    if path == "rl/workflow.py":
        return (*level_0_and_1(), "rl.stages", "rl.pipeline", "rl.recipe_inputs", "rewards")
    if folder == "rl":
        return (*level_0_and_1(), "rewards") if name in ("judge.py", "options.py", "reward_model.py") else level_0_and_1()
    if folder == "rl/workers":
        return (*level_0_and_1(), "rl.workers")
    if folder == "rl/stages":
        return (*level_0_and_1(), "rl.stages", "rewards")
    return {"rewards": ("rewards",), "recipes": ("rl.config", "rl.recipe", "rl.types", "rewards", "recipes")}.get(
        folder, OURS
    )


def level_0_and_1() -> tuple[str, ...]:
    above = ("__init__", "pipeline", "recipe_inputs", "workflow")
    files = (ROOT / "rl").glob("*.py")
    return (*LEVEL_0 - {"rl"}, *(f"rl.{f.stem}" for f in files if f.stem not in above))


def source_files() -> list[str]:
    folders = [ROOT / top for top in ("rl", "rewards", "recipes", "launch")]
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*.py"))


def faults_of(path: str, source: str) -> list[str]:
    """What the file at path imports and must not."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if path.endswith("/__init__.py"):
        module += ".__init__"
    imported = imports_of(source, module)
    ours = imports_of(source, module, module_level=True) if path.startswith("recipes/") else imported
    faults = [name for name in ours if is_in(name, OURS) and name != "rl" and not is_in(name, allowed(path))]
    for library, homes in ONLY_IN.items():
        if path not in homes:
            faults += [name for name in imported if is_in(name, (library,))]
    return sorted(faults)


@pytest.mark.parametrize("path", source_files())
def test_a_file_imports_only_the_layers_below_it(path):
    assert faults_of(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "faults"),
    [
        ("rl/types.py", "from rl.config import RunConfig", ["rl.config"]),
        ("rl/config.py", "from rl.types import BadInput", []),
        ("rl/config.py", "import rl.data", ["rl.data"]),
        ("rl/data.py", "from rl.types import Row\nimport numpy, torch", []),
        ("rl/data.py", "def f():\n    from rl.workers.learner import Learner", ["rl.workers.learner"]),
        ("rl/batch.py", "from .stages import grpo", ["rl.stages"]),
        ("rl/loss.py", "from rl import pipeline", ["rl.pipeline"]),
        ("rl/loss.py", "import rewards", ["rewards"]),
        ("rl/judge.py", "import rewards", []),
        ("rl/score.py", "import ray.util", ["ray.util"]),
        ("rl/stages/grpo.py", "from ..workers import cluster\nfrom .. import types", ["rl.workers"]),
        ("rl/stages/__init__.py", "from ..workers import cluster\nfrom . import grpo", ["rl.workers"]),
        ("rl/stages/sft.py", "import rl.pipeline", ["rl.pipeline"]),
        (
            "rl/pipeline.py",
            "from rl.stages import sft\nfrom rl.workers.cluster import RayBackend",
            ["rl.workers.cluster"],
        ),
        ("rl/pipeline.py", "from launch import cli", ["launch"]),
        ("rl/workers/sampler.py", "import vllm\nimport rl.workers.weights", []),
        ("rl/workers/sampler.py", "import rl.stages.grpo, deepspeed", ["deepspeed", "rl.stages.grpo"]),
        ("rl/workers/learner.py", "from deepspeed import zero\nfrom vllm import LLM", ["vllm"]),
        ("rewards/math.py", "from rl.types import Verdict", ["rl.types"]),
        ("rewards/math.py", "from . import text\nimport rewards.text", []),
        ("recipes/tiny.py", "from rl.config import RunConfig\nfrom recipes.tasks import addition", []),
        ("recipes/tiny.py", "from rl.data import load_rows", ["rl.data"]),
        ("recipes/tiny.py", "def f():\n    from rl.model import save", []),
        ("launch/cli.py", "from rl.workers.cluster import RayBackend", []),
        ("launch/cli.py", "def f():\n    import ray", ["ray"]),
    ],
)
def test_the_check_of_the_layers_finds_what_it_should(path, source, faults):
    found = faults_of(path, source)
    assert len(found) == len(faults)
    assert all(is_in(name, (fault,)) for name, fault in zip(found, faults, strict=True)), found


def light_modules() -> list[str]:
    recipes = sorted(f"recipes.{path.stem}" for path in (ROOT / "recipes").glob("*.py") if path.stem != "__init__")
    rewards = sorted(f"rewards.{path.stem}" for path in (ROOT / "rewards").glob("*.py") if path.stem != "__init__")
    return ["rl.settings", *recipes, *rewards, *(["launch.cli"] if is_module("launch.cli") else [])]


def loaded_by(statement: str) -> list[str]:
    """Heavy libraries that a new interpreter has loaded after statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", light_modules())
def test_importing_it_loads_no_heavy_library(module):
    assert loaded_by(f"import {module}") == []


def test_the_check_of_heavy_libraries_finds_one():
    assert loaded_by("import datasets") == ["datasets"]
