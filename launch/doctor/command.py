"""`aha doctor` and `aha run --doctor`."""

from __future__ import annotations

import json
import os
import sys

from launch.doctor.check import all_passed, as_json, lines, summary
from launch.doctor.recipe_run import examined_run
from rl.config import RunConfig
from rl.stage import Recipe


def doctor(recipe: str, made: RunConfig | Recipe, *, as_data: bool = False) -> bool:
    """Run all checks and print each when it is done, or all as JSON at the end. Returns whether none failed."""
    cfg = made if isinstance(made, RunConfig) else examined_run(made)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from launch.doctor.all_checks import AllChecks
    from launch.doctor.doctor_backend import DoctorBackend

    def make_backend(cfg: RunConfig) -> DoctorBackend:
        from launch.doctor.machines import RayDoctorBackend

        return RayDoctorBackend(cfg)

    out = sys.stderr if as_data else sys.stdout
    print(
        f"doctor: {recipe} on {cfg.cluster.address or 'this machine'}; {cfg.batch_arithmetic()}", file=out, flush=True
    )
    checks = []
    for check in AllChecks(cfg, make_backend).checks():
        checks.append(check)
        print("\n".join(lines(check)), file=out, flush=True)
    print(summary(checks), file=out, flush=True)
    if as_data:
        print(json.dumps(as_json(recipe, checks), indent=2))
    return all_passed(checks)
