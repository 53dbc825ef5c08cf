"""Who imports whom: the rooms of rl/ and their floors, no circle, and a command line that starts without heavy libraries."""

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
FLOORS: tuple[tuple[str, ...], ...] = (
    ("rl.turns",),
    ("rl.types",),
    ("rl.config",),
    ("rl.stage", "rl.backend", "rl.algorithms", "rl.records"),
    ("rl.settings",),
    ("rl.model", "rl.scoring"),
    ("rl.data", "rl.environments", "rl.workers.sync"),
    ("rl.context", "rl.workers.learner", "rl.workers.sampler"),
    ("rl.rollouts", "rl.workers.cluster"),
    ("rl.evaluation",),
    ("rl.export",),
    ("rl.stages",),
    ("rl.recipe",),
    ("rl.workflow",),
)
"""The rooms of rl/, the ground first. A room imports itself and the floors below, nothing on its own floor or above."""
ASKS_REWARDS = ("rl.scoring", "rl.data", "rl.rollouts", "rl.evaluation", "rl.stages")
"""The rooms that may import rewards/, which itself imports nothing of ours."""
NOT_FOR_WORKERS = ("rl.data", "rl.context", "rl.rollouts", "rl.evaluation", "rl.export", "rl.stages", "rl.workflow")
"""Workers are told what to do; they know nothing of the run."""
SEPARATE = ("launch.plan", "launch.doctor", "launch.report")
"""Commands of launch/ that know nothing of one another, nor of launch.cli, which starts them."""
ONLY_IN = {
    "ray": {
        "rl/workers/cluster/actors.py",
        "rl/workers/cluster/gauges.py",
        "rl/workers/cluster/learner_calls.py",
        "rl/workers/cluster/placement.py",
        "rl/workers/cluster/ray_backend.py",
        "rl/workers/cluster/ray_calls.py",
        "rl/workers/cluster/reservation.py",
        "rl/workers/cluster/reward_actors.py",
        "rl/workers/cluster/sampler_calls.py",
        "launch/doctor/machines.py",
        "launch/submit.py",
    },
    "deepspeed": {
        "rl/workers/learner/deepspeed_engine.py",
        "rl/workers/learner/learner.py",
        "rl/workers/learner/masters.py",
        "rl/workers/learner/ulysses.py",
    },
    "vllm": {
        "rl/workers/sampler/adapters.py",
        "rl/workers/sampler/precision.py",
        "rl/workers/sampler/sampler.py",
        "rl/workers/sync/vllm_transfer.py",
    },
}


# ------------------------------------------------------------------------------------------------ what is imported


def imports_of(source: str, module: str, *, module_level: bool = False) -> set[str]:
    """Every module that source imports, as dotted names; `module` is its own name, for relative imports.

    Imports inside functions and under TYPE_CHECKING count too, unless module_level.
    A name that is itself a module of ours is named in full: `from rl import types` gives rl.types. (rl/__init__.py holds
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


def module_of(path: str) -> str:
    """ "rl/data/rows.py" -> rl.data.rows, "rl/data/__init__.py" -> rl.data.__init__"""
    return path.removesuffix(".py").replace("/", ".")


def source_files() -> list[str]:
    folders = [ROOT / top for top in ("rl", "rewards", "recipes", "launch")]
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*.py"))


# ------------------------------------------------------------------------------------------------ rooms


def floor_of(module: str) -> int | None:
    """The floor of the room that holds a module; None where it is in none."""
    return next((i for i, rooms in enumerate(FLOORS) if is_in(module, rooms)), None)


def allowed(module: str) -> tuple[str, ...]:
    """Which of our modules the given one may import, with all that is inside them."""
    top = module.partition(".")[0]
    if top == "rl":
        floor = floor_of(module)
        if floor is None:
            return ()
        own = next(room for room in FLOORS[floor] if is_in(module, (room,)))
        below = tuple(room for rooms in FLOORS[:floor] for room in rooms)
        if is_in(own, ("rl.workers",)):
            below = tuple(room for room in below if room not in NOT_FOR_WORKERS)
        else:
            below = tuple(room for room in below if not is_in(room, ("rl.workers",)))
        return (own, *below, *(("rewards",) if own in ASKS_REWARDS else ()))
    if top == "rewards":
        return ("rewards",)
    if top == "recipes":
        return ("rl.config", "rl.recipe", "rl.types", "rewards", "recipes")
    if top == "launch" and is_in(module, SEPARATE):
        other = ("launch.cli", *(room for room in SEPARATE if not is_in(module, (room,))))
        beside = (module_of(path) for path in source_files() if path.startswith("launch/"))
        return ("rl", "rewards", "recipes", *(name for name in beside if not is_in(name, other)))
    return ("rl", "rewards", "recipes", "launch")


def faults_of(path: str, source: str) -> list[str]:
    """What the file at path imports and must not."""
    module = module_of(path)
    imported = imports_of(source, module)
    ours = imports_of(source, module, module_level=True) if path.startswith("recipes/") else imported
    faults = [name for name in ours if is_in(name, OURS) and name != "rl" and not is_in(name, allowed(module))]
    for library, homes in ONLY_IN.items():
        if path not in homes:
            faults += [name for name in imported if is_in(name, (library,))]
    return sorted(faults)


@pytest.mark.parametrize("path", source_files())
def test_a_file_imports_only_the_floors_below_its_own(path):
    assert faults_of(path, (ROOT / path).read_text()) == []


def test_every_file_of_rl_is_in_a_room():
    files = [path for path in source_files() if path.startswith("rl/") and not path.endswith("/__init__.py")]
    assert [path for path in files if floor_of(module_of(path)) is None] == []
    assert [room for rooms in FLOORS for room in rooms if not is_module(room)] == []


@pytest.mark.parametrize(
    ("path", "source", "faults"),
    [
        ("rl/types.py", "from rl.config import RunConfig", ["rl.config"]),
        ("rl/config.py", "from rl.types import BadInput", []),
        ("rl/config.py", "import rl.data.rows", ["rl.data"]),
        ("rl/stage.py", "from rl.settings.overrides import build", ["rl.settings.overrides"]),
        ("rl/stage.py", "import rl.backend", ["rl.backend"]),
        ("rl/stage.py", "import rl.context", ["rl.context"]),
        ("rl/recipe.py", "from rl.workflow import run", ["rl.workflow.run"]),
        ("rl/algorithms/advantage.py", "import rl.records.metrics_file", ["rl.records"]),
        ("rl/algorithms/policy_loss.py", "from rl import workflow", ["rl.workflow"]),
        ("rl/algorithms/policy_loss.py", "import rewards", ["rewards"]),
        ("rl/data/rows.py", "from rl.types import Row\nimport numpy, torch", []),
        ("rl/data/rows.py", "def f():\n    from rl.workers.learner.learner import Learner", ["rl.workers.learner"]),
        ("rl/data/packing.py", "from ..stages import grpo", ["rl.stages"]),
        ("rl/data/packing.py", "from . import rows\nfrom rl.model import pretrained", []),
        ("rl/scoring/reward_functions.py", "import rewards", []),
        ("rl/scoring/scorer.py", "import ray.util", ["ray.util"]),
        ("rl/scoring/scorer.py", "from rl.model import policy", ["rl.model"]),
        ("rl/context.py", "import rewards", ["rewards"]),
        ("rl/stages/grpo.py", "from ..workers import cluster\nfrom .. import types", ["rl.workers"]),
        ("rl/stages/__init__.py", "from ..workers import cluster\nfrom . import grpo", ["rl.workers"]),
        ("rl/stages/sft.py", "import rl.workflow.run", ["rl.workflow"]),
        ("rl/stages/sft.py", "import rl.recipe", ["rl.recipe"]),
        (
            "rl/workflow/run.py",
            "from rl.stages import sft\nfrom rl.workers.cluster.ray_backend import RayBackend",
            ["rl.workers.cluster"],
        ),
        ("rl/workflow/run.py", "from launch import cli", ["launch"]),
        ("rl/workers/sampler/sampler.py", "import vllm\nimport rl.workers.sync.vllm_transfer", []),
        ("rl/workers/sampler/sampler.py", "import rl.stages.grpo, deepspeed", ["deepspeed", "rl.stages.grpo"]),
        ("rl/workers/sampler/sampler.py", "import rl.workers.learner.learner", ["rl.workers.learner"]),
        ("rl/workers/sync/send.py", "import rl.workers.cluster.actors", ["rl.workers.cluster"]),
        ("rl/workers/cluster/actors.py", "import rl.data.rows", ["rl.data"]),
        ("rl/workers/learner/learner.py", "from deepspeed import zero\nfrom vllm import LLM", ["vllm"]),
        ("rl/nowhere.py", "from rl.types import Row", ["rl.types"]),
        ("rewards/math.py", "from rl.types import Verdict", ["rl.types"]),
        ("rewards/math.py", "from . import text\nimport rewards.text", []),
        ("recipes/tiny.py", "from rl.config import RunConfig\nfrom recipes.tasks import addition", []),
        ("recipes/tiny.py", "from rl.data.rows import load_rows", ["rl.data"]),
        ("recipes/tiny.py", "def f():\n    from rl.model.policy import save", []),
        ("launch/cli.py", "from rl.workers.cluster.ray_backend import RayBackend", []),
        ("launch/cli.py", "def f():\n    import ray", ["ray"]),
        ("launch/plan/show.py", "from launch.doctor import check", ["launch.doctor"]),
        ("launch/report/page.py", "from launch import cli, recipes", ["launch.cli"]),
    ],
)
def test_the_check_of_the_floors_finds_what_it_should(path, source, faults):
    found = faults_of(path, source)
    assert len(found) == len(faults)
    assert all(is_in(name, (fault,)) for name, fault in zip(found, faults, strict=True)), found


# ------------------------------------------------------------------------------------------------ circles


def circle(sources: dict[str, str]) -> list[str]:
    """Files that import each other in a circle, its first file once more at the end; empty where there is none.

    sources: path -> text. Imports inside functions count: a circle that only loads in time is one.
    """
    paths = {module_of(path).removesuffix(".__init__"): path for path in sources}
    arrows = {
        path: sorted({paths[name] for name in imports_of(text, module_of(path)) if name in paths} - {path})
        for path, text in sources.items()
    }
    finished: set[str] = set()

    def visit(path: str, way: list[str]) -> list[str]:
        if path in way:
            return [*way[way.index(path) :], path]
        if path in finished:
            return []
        found = next((ring for arrow in arrows[path] if (ring := visit(arrow, [*way, path]))), [])
        finished.add(path)
        return found

    return next((ring for path in sorted(sources) if (ring := visit(path, []))), [])


def all_sources() -> dict[str, str]:
    return {path: (ROOT / path).read_text() for path in source_files()}


def test_no_files_import_each_other_in_a_circle():
    assert circle(all_sources()) == []


def test_the_check_of_circles_finds_one_within_a_room():
    sources = all_sources()
    sources["rl/records/whole_files.py"] += "\n\ndef f():\n    from rl.records import metrics_file\n"
    assert sorted(set(circle(sources))) == ["rl/records/metrics_file.py", "rl/records/whole_files.py"]


# ------------------------------------------------------------------------------------------------ heavy libraries


def light_modules() -> list[str]:
    recipes = sorted(f"recipes.{path.stem}" for path in (ROOT / "recipes").glob("*.py") if path.stem != "__init__")
    rewards = sorted(f"rewards.{path.stem}" for path in (ROOT / "rewards").glob("*.py") if path.stem != "__init__")
    settings = sorted(f"rl.settings.{path.stem}" for path in (ROOT / "rl/settings").glob("*.py") if path.stem[0] != "_")
    return ["rl.recipe", *settings, *recipes, *rewards, "launch.cli"]


def loaded_by(statement: str) -> list[str]:
    """Heavy libraries that a new interpreter has loaded after statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", light_modules())
def test_importing_it_loads_no_heavy_library(module):
    assert loaded_by(f"import {module}") == []


def test_importing_the_packages_alone_loads_no_heavy_library():
    packages = sorted({module_of(p).removesuffix(".__init__") for p in source_files() if p.endswith("/__init__.py")})
    assert "rl.workers.learner" in packages
    assert loaded_by(f"import {', '.join(packages)}") == []


def test_the_check_of_heavy_libraries_finds_one():
    assert loaded_by("import datasets") == ["datasets"]
