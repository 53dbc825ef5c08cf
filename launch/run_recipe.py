"""What `aha run` does with a recipe that has been read: the checks, the run on real machines, and its report."""

from __future__ import annotations

import os

from launch.machine import settled
from rl.config import RunConfig
from rl.stage import Recipe
from rl.types import AhaError


def run_recipe(name: str, made: RunConfig | Recipe, *, check: bool, dry_run: bool, doctor_first: bool) -> None:
    """Run the recipe, or resume it. name: the recipe as the user wrote it.

    check: stop after the checks of settings, model and data. dry_run: say what would run, and stop. doctor_first: run
    only when the doctor finds no fault. Raises AhaError.
    """
    cfg, precision = settled(made, ask_cluster=not (check or dry_run))
    print(precision, flush=True)
    quiet_libraries()
    if doctor_first and not (check or dry_run):
        from launch.doctor.command import doctor

        if not doctor(name, cfg):
            raise AhaError("the doctor found faults (above); nothing was run. Mend them, or run without --doctor")
    from launch.report.background import Reports
    from launch.report.compute_figure import draw_compute
    from launch.report.curve_figure import draw_run
    from rl.records.folder_lock import refuse_unwritable
    from rl.workflow.run import layout_of, run

    layout = layout_of(cfg)
    if dry_run:
        print(layout.describe(layout.plan()))
        return
    if check:
        refuse_unwritable(layout.recipe.folder)
        layout.check(layout.plan())
        print(f"{name}: {layout.check_passed()}")
        return
    from rl.workers.cluster.ray_backend import RayBackend
    from rl.workers.cluster.ray_calls import start_ray

    reports = Reports()
    try:
        done = run(cfg, RayBackend, prepare_machines=lambda: start_ray(layout.recipe.base), progressed=reports)
    except AhaError:  # a run that failed or was stopped has a report of what is done
        reports.wait()
        raise
    if done.name == "summary.json":
        print(draw_run(done.parent))
    for evals in sorted(layout.recipe.folder.glob("*/evals")):  # stages of a recipe
        draw_compute(evals.parent, title=evals.parent.name)
    reports.finish(layout.recipe.folder)


def quiet_libraries() -> None:
    """Hide the progress bars and warnings of Hugging Face's libraries, unless the user's variables say otherwise."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
