"""What a precision does to learning: float32 against bfloat16 against bfloat16 with dithered masters, same settings.

    .venv/bin/python tests/bench/precision.py                                    # tiny: SFT at 1e-5 and 1e-6, minutes
    .venv/bin/python tests/bench/precision.py --model smollm2 --stage sft --lr 1e-5
    .venv/bin/python tests/bench/precision.py --model smollm2 --stage grpo --lr 1e-5    # an hour and a half
    .venv/bin/python tests/bench/precision.py --stage merge                      # what merging a LoRA adapter loses, seconds

Each case is a stage of a recipe in the real learner (and sampler), kept in .bench/precision: the same command goes on
from there. Every precision starts from the same model, which was trained in float32 and rounded to bfloat16's grid, as
released checkpoints are. Printed: mean and standard error between seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from recipes import quickstart, tiny  # noqa: E402
from rl.config import OptimConfig, RunConfig, TrackConfig  # noqa: E402
from rl.recipe import GRPO, SFT, Recipe  # noqa: E402
from rl.records.metrics_file import read_metrics  # noqa: E402
from rl.settings.precision import cpu_unit  # noqa: E402

OUT = ROOT / ".bench" / "precision"
PRECISIONS = {"float32": ("float32", False), "bfloat16": ("bfloat16", False), "bfloat16, dithered": ("bfloat16", True)}
STEPS = {"tiny": {"sft": 200, "grpo": 30}, "smollm2": {"sft": 24, "grpo": 12}}


@dataclass(frozen=True)
class Case:
    model: str
    stage: str
    lr: float
    precision: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        words = (self.model, self.stage, f"{self.lr:g}", self.precision.replace(", ", "-"), f"seed{self.seed}")
        return "-".join((*words, f"{self.steps}steps"))


@dataclass(frozen=True)
class Result:
    """loss: of the last steps (SFT: held-out, nats a token). accuracy: held-out, NaN for SFT. moved: share an update."""

    loss: float
    accuracy: float
    moved: float


def settings(model: str) -> RunConfig:
    """The recipe's settings: SmolLM2 on the quickstart's task, or the tiny model on its own."""
    cfg = quickstart.recipe() if model == "smollm2" else tiny.recipe()
    return dataclasses.replace(cfg, out=str(OUT), track=TrackConfig(wandb="off", gauges=False, rollouts=False))


def start_model(model: str, steps: int, run) -> str:  # type: ignore[no-untyped-def]
    """A model trained in float32 for every precision to start from, on bfloat16's grid. steps: 0 takes the recipe's."""
    cfg = settings(model)
    sft = dataclasses.replace(cfg.sft, steps=steps or cfg.sft.steps)
    base = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype="float32"))
    trained = run(Recipe(f"{model}-start-{sft.steps}", base, (SFT("start", cfg.model.path, sft),), str(OUT))) / "model"
    folder = OUT / f"{model}-start-{sft.steps}-on-grid"
    if not folder.exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        partial = folder.with_name(folder.name + ".partial")
        AutoModelForCausalLM.from_pretrained(trained, dtype=torch.bfloat16).save_pretrained(partial)
        AutoTokenizer.from_pretrained(trained).save_pretrained(partial)
        partial.rename(folder)
    return str(folder)


def recipe_of(case: Case, start: str) -> Recipe:
    cfg = settings(case.model)
    dtype, dither = PRECISIONS[case.precision]
    base = dataclasses.replace(
        cfg,
        seed=case.seed,
        model=dataclasses.replace(cfg.model, dtype=dtype),
        learner=dataclasses.replace(cfg.learner, dither=dither),
    )
    optim = OptimConfig(lr=case.lr)
    if case.stage == "sft":
        held_out = dataclasses.replace(cfg.evaluation.data, target_field=cfg.sft.data.target_field)
        sft = dataclasses.replace(cfg.sft, steps=case.steps, optim=optim, eval_data=held_out)
        return Recipe(case.name, base, (SFT("sft", start, sft),), str(OUT))
    grpo = dataclasses.replace(cfg.grpo, steps=case.steps, optim=optim)
    stage = GRPO("grpo", start, cfg.prompts, cfg.rewards, cfg.rollout, grpo, cfg.evaluation)
    return Recipe(case.name, base, (stage,), str(OUT))


def result_of(case: Case, folder: Path) -> Result:
    records = [record for record in read_metrics(folder) if record["stage"] == case.stage]
    moved = float(np.mean([float(str(r["policy/weights_moved"])) for r in records]))
    if case.stage == "sft":
        return Result(float(str(records[-1]["eval/nll"])), math.nan, moved)
    last = [float(str(r["reward/mean"])) for r in records[-5:]]
    evals = [record for record in read_metrics(folder) if record["stage"] == "eval"]
    return Result(float(np.mean(last)), float(str(evals[-1]["pass@1"])), moved)


def mean_and_error(values: Sequence[float]) -> str:
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.4g} ± {error:.2g}"


def rows(results: dict[Case, Result]) -> Iterator[str]:
    yield "| model | stage | rate | precision | loss (SFT: held-out) or reward (GRPO) | pass@1 | weights moved an update |"
    yield "|---|---|---|---|---|---|---|"
    kinds = dict.fromkeys((c.model, c.stage, c.lr, c.precision) for c in results)
    for model, stage, lr, precision in kinds:
        found = [
            r for c, r in results.items() if (c.model, c.stage, c.lr, c.precision) == (model, stage, lr, precision)
        ]
        accuracy = "" if stage == "sft" else mean_and_error([r.accuracy for r in found])
        loss, moved = mean_and_error([r.loss for r in found]), mean_and_error([100 * r.moved for r in found])
        yield f"| {model} | {stage} | {lr:g} | {precision} | {loss} | {accuracy} | {moved} % |"


def merge_rows(sizes: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4), rank: int = 16) -> Iterator[str]:
    """What is lost of an adapter that is merged into bfloat16 weights, by the size of its update beside the weights.

    Error: |merged - W - update| / |update|, as norms over the matrix; 1 means that all of the update is lost.
    """
    import torch

    torch.manual_seed(0)
    base = (0.02 * torch.randn(1024, 1024)).bfloat16().float()
    a, b = torch.randn(rank, 1024), torch.randn(1024, rank)
    yield "| update / weights | weights that move, % | error of the merged update | error of the two products apart |"
    yield "|---|---|---|---|"
    x = torch.randn(1024, 64).bfloat16().float()
    for size in sizes:
        scale = size * base.norm() / (b @ a).norm()
        low, high = (
            a.bfloat16().float(),
            (scale * b).bfloat16().float(),
        )  # as they travel, and as they are computed with
        update = high @ low
        merged = (base + update).bfloat16().float()
        lost = (merged - base - update).norm() / update.norm()
        # Apart, the two products are added: their errors are those of their own bfloat16 matrices.
        apart = (high @ (low @ x).bfloat16().float() - update @ x).norm() / (update @ x).norm()
        moved = 100 * float((merged != base).float().mean())
        yield f"| {size:g} | {moved:.3g} | {float(lost):.2g} | {float(apart):.2g} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--stage", choices=("sft", "grpo", "merge"), default="sft")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-5, 1e-6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=0, help="0: 200 and 30 (tiny), 24 and 12 (smollm2)")
    parser.add_argument(
        "--start-steps", type=int, default=0, help="SFT steps of the model to start from; 0: the recipe's"
    )
    asked = parser.parse_args()
    if asked.stage == "merge":
        print("\n".join(merge_rows()))
        return

    from rl.workers.cluster.ray_backend import RayBackend
    from rl.workers.cluster.ray_calls import start_ray
    from rl.workflow.run import run as run_stages

    base = settings(asked.model)

    def run(recipe: Recipe) -> Path:
        return run_stages(recipe, RayBackend, prepare_machines=lambda: start_ray(base))

    start = start_model(asked.model, asked.start_steps, run)
    steps = asked.steps or STEPS[asked.model][asked.stage]
    results: dict[Case, Result] = {}
    for lr, precision, seed in itertools.product(asked.lr, asked.precisions, asked.seeds):
        case = Case(asked.model, asked.stage, lr, precision, seed, steps)
        results[case] = result_of(case, run(recipe_of(case, start)))
    print(f"\n{platform.processor() or platform.machine()}, bfloat16 unit: {cpu_unit() or 'none'}; {steps} steps\n")
    print("\n".join(rows(results)))
    file = OUT / f"{asked.model}-{asked.stage}.json"
    file.write_text(json.dumps([dataclasses.asdict(c) | dataclasses.asdict(r) for c, r in results.items()], indent=1))
    print(f"\nEvery case: {file}")


if __name__ == "__main__":
    main()
