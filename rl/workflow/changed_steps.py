"""What is said when a folder that holds finished steps is run again with other numbers of steps or of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.algorithms.learning_rate import learning_rate
from rl.config import GRPOConfig
from rl.evaluation.evaluate import eval_path
from rl.records.checkpoint import CheckpointStore
from rl.stage import Stage
from rl.stages.reward_model import held_out_path


def saved_steps(folder: Path, stage: str) -> int:
    """The steps of the stage's newest checkpoint in a folder; 0 where there is none."""
    return max(CheckpointStore(folder / "checkpoints" / stage, keep=1).steps(), default=0)


def finished_steps(stage: Stage, folder: Path, is_done: bool) -> int:
    """The steps that a stage in a folder of its own has behind it."""
    name, total = stage.total_steps
    if not is_done:
        return saved_steps(folder, name)
    # Where the number depends on the rows: each stage that evaluates does so after its last step.
    files = [*eval_path(folder, 0).parent.glob("step_*.json"), *held_out_path(folder, 0).parent.glob("step_*.json")]
    return total or max((int(file.stem.removeprefix("step_")) for file in files), default=0)


def changed_rate(was: GRPOConfig, now: GRPOConfig, done: int) -> str:
    """What the learning rate does when a run of was.steps goes on as one of now.steps; "" when nothing changes.

    A linear or cosine schedule spans all steps, so that with another number of them it is another curve.
    """
    if now.optim.schedule == "constant" or was.steps == now.steps or not done:
        return ""
    a_step = now.updates_per_step
    last = learning_rate(was.optim, done * a_step - 1, was.total_updates)
    line = (
        f"grpo.steps was {was.steps} and is {now.steps}, and grpo.optim.schedule={now.optim.schedule} spans all steps: "
        f"the learning rate of step {done} was {last:.2g}"
    )
    if now.steps == done:
        return f"{line}, and no step follows in which it would fall to {now.optim.lr * now.optim.final_lr_share:.2g}"
    following = learning_rate(now.optim, done * a_step, now.total_updates)
    end = learning_rate(now.optim, now.total_updates - 1, now.total_updates)
    return f"{line}, that of step {done + 1} is {following:.2g}, and it ends at {end:.2g}"


def missing_evaluations(stage: Stage, folder: Path, done: int) -> str:
    """Which evaluations the settings ask for after steps that are `done`, and nobody made; "" where there are none."""
    key, every = stage.evaluates_every
    due = range(every, done + 1, every) if every else ()
    missing = [s for s in due if not (eval_path(folder, s).exists() or held_out_path(folder, s).exists())]
    if not missing:
        return ""
    return (
        f"{key}={every} asks for evaluations after {_steps(missing)} too, but steps that are done are not evaluated "
        "afterwards; it counts for those that are still to come"
    )


def _steps(steps: Sequence[int]) -> str:
    """[5, 10] -> "steps 5 and 10"; of many, the first three and the last."""
    names = [str(step) for step in steps]
    if len(names) > 4:
        return f"steps {', '.join(names[:3])}, ... {names[-1]}"
    return f"step {names[0]}" if len(names) == 1 else f"steps {', '.join(names[:-1])} and {names[-1]}"
