"""`aha run RECIPE seed=1,2,3`: the recipe once for each seed, one after another, and a table over the seeds.

Each seed is a run of its own, out/NAME-seedN, that resumes like any other: the same command goes on where it stopped.
The table is printed and kept as out/NAME-seeds.txt and .json. Errors in it are standard errors between seeds, beside
which the error within one run (its problems and samples) says nothing about another seed.
"""

from __future__ import annotations

import dataclasses
import io
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Column, Table

from rl.config import RunConfig
from rl.evaluation.evaluate import read_evaluation
from rl.evaluation.gains import gains
from rl.evaluation.metrics import mean_and_stderr
from rl.records.summary import Gain, percent
from rl.records.whole_files import read_json, write_json, write_whole
from rl.settings.typed_values import key_and_text, read
from rl.stage import Recipe
from rl.stages.compare import Claim, Finding, read_findings, scale_of
from rl.types import AhaError, BadInput, Stopped


def several_seeds(overrides: Sequence[str]) -> tuple[int, ...]:
    """The seeds of an override seed=1,2,3; () where it is absent or names one. Raises BadInput for other values."""
    for item in overrides:
        key, text = key_and_text(item)
        if key == "seed" and "," in text:
            seeds = tuple(read(part.strip(), int, "seed") for part in text.split(","))
            if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}, key=seeds.index):
                raise BadInput(f"seed={text}: {twice[0]} stands there twice; name each seed once")
            return tuple(int(str(seed)) for seed in seeds)
    return ()


def with_seed(overrides: Sequence[str], seed: int) -> list[str]:
    """The overrides with this one seed in place of several."""
    return [*(item for item in overrides if key_and_text(item)[0] != "seed"), f"seed={seed}"]


def first_seed(overrides: Sequence[str]) -> list[str]:
    """The overrides with the first of several seeds alone, for what is the same whatever the seed."""
    several = several_seeds(overrides)
    return with_seed(overrides, several[0]) if several else list(overrides)


def ran_each(recipe: str, overrides: Sequence[str], cfg: RunConfig | Recipe, options: Mapping[str, bool]) -> bool:
    """Run the recipe with each of several seeds in its own process, then print the table. False: there is one seed.

    cfg: the recipe with the first seed. options: of aha run, and whether they are given; with --check and --dry-run
    there is no table, and the doctor examines once. Raises Stopped when a run was stopped, AhaError when one failed.
    """
    seeds = several_seeds(overrides)
    for i, seed in enumerate(seeds):
        print(f"\n### seed {seed}: {i + 1} of {len(seeds)}", flush=True)
        given = [item for item in with_seed(overrides, seed) if key_and_text(item)[0] != "name"]
        once = [option for option, wanted in options.items() if wanted and (option != "--doctor" or i == 0)]
        named = f"name={cfg.name}-seed{seed}"
        code = _run_one([sys.executable, "-m", "launch.cli", "run", recipe, *given, named, *once])
        if code == 130:
            raise Stopped(f"stopped in seed {seed}; the same command goes on from there")
        if code:
            raise AhaError(f"seed {seed} ended with the error above; the same command goes on from there")
    if seeds and not (options["--check"] or options["--dry-run"]):
        keep_table(cfg, seeds)
    return bool(seeds)


def _run_one(command: Sequence[str]) -> int:
    """The run's exit code. Ctrl-C and SIGTERM are passed on to the run, which saves before it ends."""
    # In a process group of its own it hears a Ctrl-C of the terminal once, from us; a second would end it at once.
    child = subprocess.Popen(command, process_group=0)

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    earlier = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return child.wait()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def keep_table(cfg: RunConfig | Recipe, seeds: Sequence[int]) -> Path:
    """Print the table of finished runs and keep it as text and JSON. Returns the text's path."""
    folders = {seed: Path(cfg.out) / f"{cfg.name}-seed{seed}" for seed in seeds}
    if isinstance(cfg, RunConfig):
        if not cfg.evaluation.data.source:
            raise BadInput(f"{cfg.name}: evaluates nothing (evaluation.data is not set), so there is no table")
        table, tree = _gains(cfg, folders)
    else:
        table, tree = _claims(cfg, folders)
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    Console().print(table)
    path = Path(cfg.out) / f"{cfg.name}-seeds.txt"
    write_whole(path, text.getvalue())
    write_json(path.with_suffix(".json"), tree)
    print(f"The table: {path}")
    return path


# ------------------------------------------------------------------------------------------------ one run a seed


def _gains(cfg: RunConfig, folders: dict[int, Path]) -> tuple[Table, object]:
    """Accuracy before and after GRPO for each seed, and the mean over seeds."""
    of_seeds: dict[int, tuple[Gain, ...]] = {}
    for seed, folder in folders.items():
        before, after = (read_evaluation(folder, step) for step in (0, cfg.grpo.steps))
        if before is None or after is None:
            raise BadInput(f"{folder}: lacks the evaluation before or after GRPO; run it again")
        of_seeds[seed] = gains(before, after)
    labels = [gain.label for gain in next(iter(of_seeds.values()))]
    table = Table(
        "seed", *(Column(label, justify="right", no_wrap=True) for label in labels), Column("minutes", justify="right"),
        title=f"{cfg.name}: held-out accuracy before -> after {cfg.grpo.steps} GRPO steps, %, and the gain in points",
        caption="± one standard error: of a seed's row over its problems, of the mean's row between seeds.",
    )  # fmt: skip
    minutes = {seed: _minutes(folder) for seed, folder in folders.items()}
    for seed, of_seed in of_seeds.items():
        cells = [f"{percent(g.before)} -> {percent(g.after)} ({percent(g.difference, g.stderr, '+')})" for g in of_seed]
        table.add_row(str(seed), *cells, f"{minutes[seed]:.1f}")
    means = []
    for column in zip(*of_seeds.values(), strict=True):
        first, _ = mean_and_stderr([g.before for g in column])
        last, _ = mean_and_stderr([g.after for g in column])
        means.append(f"{percent(first)} -> {percent(last)} ({_gain_over(column)})")
    table.add_row("mean", *means, f"{mean_and_stderr(list(minutes.values()))[0]:.1f}")
    tree = [
        {"seed": s, "minutes": minutes[s], "gains": [dataclasses.asdict(g) for g in of]} for s, of in of_seeds.items()
    ]
    return table, tree


def _gain_over(column: Sequence[Gain]) -> str:
    return percent(*mean_and_stderr([g.difference for g in column]), "+")


def _minutes(folder: Path) -> float:
    seconds = read_json(folder / "summary.json", lambda tree: dict(tree["seconds"]), "run it again")
    return sum(float(str(value)) for value in seconds.values()) / 60


# ------------------------------------------------------------------------------------------------ several stages a seed


@dataclass(frozen=True, slots=True)
class Tested:
    """A claim over seeds: in how many it held, and the difference's mean and standard error between seeds."""

    claim: Claim
    left: float
    right: float
    difference: float
    stderr: float
    held: int
    seeds: int


def over_seeds(findings: Sequence[Sequence[Finding]]) -> list[Tested]:
    """findings: of each seed. Raises BadInput when they are not of the same claims."""
    if len({tuple(finding.claim for finding in of_seed) for of_seed in findings}) != 1:
        raise BadInput("the seeds' claims differ; finish each seed with the same recipe")
    return [_tested(column) for column in zip(*findings, strict=True)]


def _tested(column: Sequence[Finding]) -> Tested:
    left, _ = mean_and_stderr([f.left.value for f in column])
    right, _ = mean_and_stderr([f.right.value for f in column])
    difference, stderr = mean_and_stderr([f.difference for f in column])
    return Tested(column[0].claim, left, right, difference, stderr, sum(f.holds for f in column), len(column))


def _claims(recipe: Recipe, folders: dict[int, Path]) -> tuple[Table, object]:
    """Each claim's numbers as means over seeds, and for how many seeds it held."""
    stages = [stage.name for stage in recipe.stages]
    tested: list[Tested] = []
    for stage in stages:
        files = [folder / stage / "claims.json" for folder in folders.values()]
        if any(file.exists() for file in files):
            tested += over_seeds([read_findings(file) for file in files])
    if not tested:
        raise BadInput(f"{recipe.name}: makes no claims (it has no Compare stage), so there is no table")
    table = Table(
        "claim", *(Column(c, justify="right", no_wrap=True) for c in ("measured", "against", "difference", "held")),
        title=f"{recipe.name}: claims over seeds {', '.join(map(str, folders))}", show_lines=True,
        caption="Percent, or tokens: means over seeds, ± one standard error between seeds. Held: within each seed.",
    )  # fmt: skip
    for t in tested:
        scale = scale_of(t.claim) / 100
        cells = percent(scale * t.left), percent(scale * t.right), percent(scale * t.difference, scale * t.stderr, "+")
        table.add_row(t.claim.text, *cells, f"{t.held} of {t.seeds}")
    return table, [dataclasses.asdict(t) for t in tested]
