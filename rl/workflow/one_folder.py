"""A RunConfig as a recipe of two stages in one folder: an SFT cold start, if it is set, then GRPO.

resolved.json                every setting; `aha run resolved.json` runs the same again
rewards.json                 which code its rewards had (rl/workflow/reward_versions.py)
sft/                         the model after SFT; SFT is done once this folder exists
model/, evals/, checkpoints/, rollouts/, metrics.jsonl
summary.txt, summary.json    the result; the run is done once summary.json exists
"""

from __future__ import annotations

import dataclasses
import json
import logging
from functools import cached_property
from pathlib import Path

from rl.config import RunConfig, asked_day
from rl.context import Inputs, StageRun
from rl.evaluation.evaluate import decline_until, read_evaluation
from rl.evaluation.gains import gains
from rl.evaluation.result import EvalResult
from rl.records.checkpoint import refuse_fewer_steps
from rl.records.summary import Measured, write_summary
from rl.records.whole_files import read_json, write_whole
from rl.settings.overrides import from_json, to_json
from rl.stage import Recipe, Stage
from rl.stages.grpo import GRPO
from rl.stages.sft import SFT
from rl.types import BadInput, Hardware
from rl.workflow.changed_steps import changed_rate, missing_evaluations, saved_steps
from rl.workflow.inputs import prepare, resolve_model, with_teachers
from rl.workflow.plan import DONE, NEW, RESUMES, Planned
from rl.workflow.reward_versions import changed_versions, write_versions

log = logging.getLogger(__name__)
FREE_ON_RESUME = (
    "grpo.steps", "evaluation.every", "sft.eval_every", "checkpoint", "track", "cluster", "scoring", "out",
)  # fmt: skip
"""Settings that may change when a run resumes: it is the same run all the same."""
COMPLETE = "complete"


class OneFolder:
    """The layout of a run (rl.workflow.plan.Layout)."""

    def __init__(self, cfg: RunConfig) -> None:
        self.cfg = cfg
        start = "@sft" if cfg.sft.enabled else cfg.model.path
        stages: list[Stage] = [SFT("sft", cfg.model.path, cfg.sft)] if cfg.sft.enabled else []
        if cfg.grpo.steps:
            stages.append(GRPO("grpo", start, cfg.prompts, cfg.rewards, cfg.rollout, cfg.grpo, cfg.evaluation))
        self.recipe = Recipe(cfg.name, cfg, tuple(stages), cfg.out)

    @cached_property
    def _prepared(self) -> Inputs:
        return prepare(self.cfg)

    def progress(self) -> str:
        """Whether the folder's run is new, begun or complete. Raises BadInput when it is a run with other settings."""
        refuse_other_run(self.cfg)
        finished = self._summary_steps()
        refuse_fewer_steps(self.cfg.run_dir, "grpo", max(self._saved, finished or 0), self.cfg.grpo.steps)
        if finished == self.cfg.grpo.steps:
            return COMPLETE
        return "begun" if (self.cfg.run_dir / "resolved.json").exists() else NEW

    @property
    def _saved(self) -> int:
        return saved_steps(self.cfg.run_dir, "grpo")

    def _notes(self) -> list[str]:
        """What changed steps, evaluations and rewards mean for a run that was begun, and 0 steps for any."""
        cfg, notes = self.cfg, []
        if not cfg.grpo.steps and cfg.evaluation.data.source:
            notes.append(f"grpo.steps=0: nothing is evaluated; aha eval {cfg.run_dir / 'sft'} does that")
        old, finished = begun_settings(cfg), self._summary_steps()
        if old is None:
            return notes
        done = cfg.grpo.steps if finished == cfg.grpo.steps else self._saved
        notes.append(changed_rate(old.grpo, cfg.grpo, done))
        notes.append(missing_evaluations(self.recipe.stages[-1], cfg.run_dir, done))
        every = old.sft.eval_every, cfg.sft.eval_every
        if every[0] != every[1] and (saved_steps(cfg.run_dir, "sft") or (cfg.run_dir / "sft").is_dir()):
            notes.append(f"sft.eval_every was {every[0]} and is {every[1]}; it counts for SFT steps still to come")
        notes.append(changed_versions(cfg.run_dir, cfg.rewards) if done else "")
        if finished and not done:
            notes.append(f"the checkpoints of its {finished} finished steps are gone: GRPO begins again with step 1")
        return [note for note in notes if note]

    def _summary_steps(self) -> int | None:
        """The GRPO steps that the summary is of; None where there is none or, with a warning, where it is damaged."""
        try:
            return read_json(self.cfg.run_dir / "summary.json", lambda tree: int(tree["steps"]), "it is made again")
        except FileNotFoundError:
            return None
        except BadInput as error:
            log.warning("%s", error)
            return None

    def plan(self) -> list[Planned]:
        if not self.recipe.stages:
            raise BadInput("grpo.steps=0, and no SFT: there is nothing to run; set grpo.steps, sft.steps or sft.epochs")
        folder, state = self.cfg.run_dir, self.progress()
        other = {COMPLETE: DONE, NEW: NEW}.get(state, RESUMES)
        planned = []
        for stage in self.recipe.stages:
            is_sft = stage.name == "sft"
            begun_after = is_sft and stage is not self.recipe.stages[-1] and (folder / "sft").is_dir()
            done = DONE if begun_after else other
            planned.append(Planned(stage, folder, folder / ("sft" if is_sft else "model"), done))
        return planned

    def describe(self, planned: list[Planned]) -> str:
        does = {
            NEW: "is new: nothing was run there",
            "begun": "was begun: the run goes on there",
            COMPLETE: "is complete: its summary is shown again",
        }
        cfg = self.cfg
        lines = [f"{cfg.name}: {cfg.model.path}. {cfg.batch_arithmetic()}.", f"{cfg.run_dir} {does[self.progress()]}."]
        return "\n".join([*lines, *self._notes()])

    def check(self, planned: list[Planned]) -> None:
        assert self._prepared

    def check_passed(self) -> str:
        return "\n".join(
            [f"settings, model, data and rewards are fine. {self.cfg.batch_arithmetic()}.", *self._notes()]
        )

    def begin(self, planned: list[Planned]) -> bool:
        for note in self._notes():
            print(note, flush=True)
        if any(p.state != DONE for p in planned):
            return True
        print(f"This run is complete: {self.cfg.run_dir / 'summary.json'}\n")
        table = self.cfg.run_dir / "summary.txt"
        print(table.read_text(encoding="utf-8", errors="replace") if table.is_file() else "Its summary.txt is gone.")
        return False

    def announce(self, number: int, planned: list[Planned], seconds: float) -> None:
        """Say nothing: the progress line names the stage."""

    def open(self, p: Planned) -> None:
        """Do nothing: the tracker makes the folder."""

    def config(self, at: StageRun) -> RunConfig:
        return with_teachers(self.cfg, resolve_model)

    def inputs(self, at: StageRun, cfg: RunConfig) -> Inputs:
        after_sft = at.stage.name == "grpo" and self.cfg.sft.enabled
        return dataclasses.replace(self._prepared, model_path=str(at.folder / "sft")) if after_sft else self._prepared

    def begun(self, p: Planned) -> dict[str, object]:
        log.info("run folder %s; %s", p.folder, self.cfg.batch_arithmetic())
        text = to_json(self.cfg)
        write_whole(self.cfg.run_dir / "resolved.json", text)
        write_versions(self.cfg.run_dir, self.cfg.rewards)
        settings: dict[str, object] = json.loads(text)
        return settings

    def tracker_name(self, p: Planned) -> str:
        return self.cfg.name

    def finish(self, at: StageRun, held: Hardware, seconds: float) -> None:
        if at.stage is not self.recipe.stages[-1]:
            return
        at.ctx.tracker.close()
        cfg = self.cfg
        before, after = (_evaluated(cfg, step) for step in (0, cfg.grpo.steps))
        fall = decline_until(cfg.run_dir, cfg.grpo.steps) if after else None
        write_summary(
            cfg.run_dir,
            name=cfg.name,
            model=cfg.model.path,
            seed=cfg.seed,
            before=Measured(before.pass_at_1, before.stderr, before.greedy) if before else None,
            after=Measured(after.pass_at_1, after.stderr, after.greedy) if after else None,
            steps=cfg.grpo.steps,
            seconds=at.ctx.seconds,
            gains=gains(before, after) if before and after else (),
            warning=str(fall) if fall else "",
        )

    def end(self, planned: list[Planned], seconds: float) -> Path:
        return self.cfg.run_dir / "summary.json"


def _evaluated(cfg: RunConfig, step: int) -> EvalResult | None:
    return read_evaluation(cfg.run_dir, step) if cfg.evaluation.data.source else None


def begun_settings(cfg: RunConfig) -> RunConfig | None:
    """The settings of the run that the folder holds; None where it holds none. Raises BadInput for a damaged file."""
    path = cfg.run_dir / "resolved.json"
    if not path.exists():
        return None
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (BadInput, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: {error}; use another name=..., or, if the run's settings are still the same, delete this file"
        ) from error


def refuse_other_run(cfg: RunConfig) -> None:
    """Raise BadInput when the folder holds a run with other settings, which resuming would mix up."""
    begun = begun_settings(cfg)
    if begun is None:
        return
    old, new = json.loads(to_json(begun)), json.loads(to_json(cfg))
    for key, (was, now) in _differences(old, new, "").items():
        if key == "model.dtype" and "auto" in (was, now):  # auto becomes the precision that the folder was begun in
            continue
        if key == "model.chat_date" and asked_day(str(was)) == asked_day(str(now)):  # auto, and the day that it became
            continue
        if key == "grpo.old_logprobs" and "sampler" not in (was, now) and not begun.rollout.staleness:  # auto: learner
            continue
        if not key.startswith(FREE_ON_RESUME):
            raise BadInput(
                f"{cfg.run_dir} holds a run with {key}={was}, not {now}; use another name=..., or delete the folder"
            )
        late = next((reward.name or reward.function for reward in cfg.rewards if reward.from_step < 0), "")
        if key == "grpo.steps" and late:
            raise BadInput(
                f"{cfg.run_dir} holds a run of {was} steps whose reward {late!r} counts from the end; with {now} steps "
                "it would stop counting and begin again. Use another name=..., or count from_step from the beginning"
            )


def _differences(old: object, new: object, prefix: str) -> dict[str, tuple[object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        out: dict[str, tuple[object, object]] = {}
        for key in old.keys() | new.keys():
            out |= _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return out
    return {} if old == new else {prefix.rstrip("."): (old, new)}
