"""Run a recipe of several stages: what is done stays, what is half done goes on, what changed is done again.

A stage's folder is <out>/<recipe>/NN-name-KEY (rl/workflow/stage_keys.py); provenance.json in it says that the stage is
done. Workers are kept from stage to stage while their model's shape and their settings stay the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from rl.backend import Backend, Judging
from rl.config import MODEL, AskConfig, DataConfig, EvalConfig, RewardConfig, RunConfig
from rl.context import Context, Stop
from rl.evaluation.evaluate import evaluate_model
from rl.export.folder import Sampling, export_folder
from rl.model.pretrained import load_config
from rl.recipe import (
    GRPO,
    MAKES_MODEL,
    SFT,
    Build,
    Compare,
    Evaluate,
    Export,
    Mix,
    Prefer,
    Recipe,
    Reference,
    Reject,
    RewardTraining,
    inputs_of,
    is_taught,
    run_config,
    stage_to_dict,
    trained_on,
)
from rl.records import provenance
from rl.records.folder_lock import held
from rl.records.metrics_file import read_metrics
from rl.records.terminal import duration
from rl.records.tracker import Tracker
from rl.records.whole_files import write_whole
from rl.scoring.routing import named
from rl.settings.overrides import recipe_to_json
from rl.stages.compare import compare
from rl.stages.grpo import train_grpo
from rl.stages.mix import build, mix
from rl.stages.prefer import prefer
from rl.stages.reject import reject
from rl.stages.reward_model import train_reward_model
from rl.stages.sft import train_sft
from rl.types import AhaError, BadInput, Hardware, Stopped
from rl.workflow.inputs import Inputs, prepare, resolve_model, with_teachers
from rl.workflow.plan import Planned, plan, told
from rl.workflow.recipe_inputs import check_inputs
from rl.workflow.run_one import export_model

log = logging.getLogger(__name__)
MakeBackend = Callable[[RunConfig], Backend]
MakeJudging = Callable[[RunConfig], Judging]
OF_ONE_FILE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")
"""Settings of a model's config that are about its file: the workers choose their own precision."""


def run_recipe(
    recipe: Recipe,
    make_backend: MakeBackend,
    make_judging: MakeJudging,
    prepare_machines: Callable[[], object] = lambda: None,
    progressed: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Run or resume every stage that is not done. Returns the last stage's folder.

    make_backend(cfg) starts a stage's machines; prepare_machines() what they share, once, when the first is needed.
    make_judging(cfg) starts the rewards of a stage without machines.
    progressed(recipe.folder) is called after each stage and each evaluation; it must return at once.
    Raises BadInput for what check_inputs tells, and when another process is at work in the folder.
    """
    check_inputs(recipe, plan(recipe))
    with held(recipe.folder):
        return _run(recipe, _Machines(make_backend, make_judging, prepare_machines), progressed)


def _run(recipe: Recipe, machines: _Machines, progressed: Callable[[Path], None]) -> Path:
    planned = plan(recipe)
    write_whole(recipe.folder / "recipe.json", recipe_to_json(recipe))
    print(told(planned), flush=True)
    folders = {p.stage.name: p.folder for p in planned}
    started = time.monotonic()
    try:
        with Stop().listening() as stop:
            for i, p in enumerate(planned):
                if p.state == "done":
                    continue
                so_far = duration(time.monotonic() - started)
                kind = type(p.stage).__name__
                print(f"\n=== {i + 1} of {len(planned)}: {p.stage.name} ({kind}), {so_far} so far", flush=True)
                _Runner(recipe, p, folders, machines, stop, lambda run_dir: progressed(recipe.folder)).run()
                progressed(recipe.folder)
                if stop.requested and p is not planned[-1]:
                    raise Stopped(f"stopped after stage {p.stage.name}; the same command goes on from there")
    finally:
        machines.close()
    print(f"\n{duration(time.monotonic() - started)}. Everything is in {recipe.folder}")
    return planned[-1].folder


class _Machines:
    """The workers, kept while the next stage can use them."""

    def __init__(self, make: MakeBackend, make_judging: MakeJudging, prepare_machines: Callable[[], object]) -> None:
        self.make, self.make_judging, self.prepare_machines = make, make_judging, prepare_machines
        self.backend: Backend | None = None
        self.signature = ""

    def ready(self, cfg: RunConfig, inputs: Inputs) -> Backend:
        """Workers for this stage: those of the stage before with new rewards, or new ones."""
        signature = _signature(cfg, inputs)
        if self.backend is not None and signature == self.signature:
            self.backend.adopt(cfg)
            return self.backend
        self.close()
        log.info("starting %d learner rank(s) and %d sampler(s)", cfg.learner.ranks, cfg.sampler.count)
        self.prepare_machines()
        self.backend, self.signature = self.make(cfg), signature
        self.backend.start(inputs.model_path, inputs.context_length)
        return self.backend

    def close(self) -> None:
        if self.backend is not None:
            self.backend.close()
        self.backend, self.signature = None, ""


def _signature(cfg: RunConfig, inputs: Inputs) -> str:
    """What must be equal for workers to go on: the model's shape, the tokenizer, and the workers' settings.

    Compared as loaded: a file that a stage wrote says the same in other words (its version, where it came from).
    """
    shape = load_config(inputs.model_path).to_dict()
    tokenizer = inputs.tokenizer
    parts = [
        {name: value for name, value in sorted(shape.items()) if name not in OF_ONE_FILE},
        sorted(tokenizer.get_vocab().items()), tokenizer.all_special_tokens, tokenizer.chat_template,
        cfg.model.dtype, cfg.model.lora, cfg.learner, cfg.sampler, cfg.cluster, cfg.seed, cfg.grpo.max_logprob_gap,
        inputs.context_length,
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class _Runner:
    """Runs one stage in its folder."""

    def __init__(
        self, recipe: Recipe, planned: Planned, folders: Mapping[str, Path], machines: _Machines, stop: Stop,
        evaluated: Callable[[Path], None],
    ) -> None:  # fmt: skip
        self.recipe, self.stage, self.folder, self.key = recipe, planned.stage, planned.folder, planned.key
        self.folders, self.machines, self.stop, self.evaluated = folders, machines, stop, evaluated
        self.seconds: dict[str, float] = {}
        self.held = Hardware(1, {})  # a stage without machines runs here

    def run(self) -> None:
        """Run or resume the stage; its provenance.json is written last."""
        started = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {
            "name": self.stage.name, "kind": type(self.stage).__name__, "key": self.key.key,
            "config": self.key.config, "inputs": self.key.inputs,
        }  # fmt: skip
        write_whole(self.folder / "stage.json", json.dumps(record, indent=2) + "\n")
        stage, seed = self.stage, self.recipe.base.seed
        if isinstance(stage, Mix):
            parts = tuple(dataclasses.replace(p, data=self._resolved(p.data)) for p in stage.mix.parts)
            against = tuple(self._resolved(d) for d in stage.mix.against)
            mix(self.folder, dataclasses.replace(stage.mix, parts=parts, against=against), seed)
        elif isinstance(stage, Build):
            build(self.folder, stage.function, {text: self._path(text, "data.jsonl") for text in stage.sources})
        elif isinstance(stage, Prefer):
            files = [self._path(text, "samples.jsonl") for text in stage.prefer.samples]
            prefer(self.folder, stage.prefer, files, seed, self.stop)
        elif isinstance(stage, Compare):
            compare(self.folder, stage.claims, self.folders)
        elif isinstance(stage, Export):
            shutil.rmtree(self.folder / "model", ignore_errors=True)
            source = Path(self._path(stage.model, "model"))
            export_folder(source, self.folder / "model", ollama=True, sampling=Sampling())
        else:
            self._on_machines()
        self.seconds.setdefault("stage", time.perf_counter() - started)
        before = [self.folders[name] for name in inputs_of(stage)]
        details = {
            "seconds": self.seconds, "seed": seed, "hardware": provenance.hardware(self.held),
            "gpu_hours": provenance.gpu_hours(self.held, self.seconds), "counts": self._counts(),
        }  # fmt: skip
        provenance.write(self.folder, record | details, before)
        # Its work is done, so what would resume it is only a burden.
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def _on_machines(self) -> None:
        cfg, taught = self._config(), is_taught(self.stage)
        inputs = prepare(cfg, samples_here=not taught, ask=self._ask(), trained_on=self._trained_on(cfg.evaluation))
        with Tracker(cfg.run_dir, cfg.track, name=f"{self.recipe.name}-{self.stage.name}") as tracker:
            backend = None if taught else self.machines.ready(cfg, inputs)
            tracker.start(stage_to_dict(self.stage))
            if backend is not None:
                tracker.attach(backend.publish, backend.queue)
                self.held = backend.hardware()
            ctx = Context(cfg, backend, inputs.tokenizer, tracker, self.stop, inputs.context_length, self.evaluated)
            self._with(ctx, inputs)
            self.seconds = ctx.seconds

    def _with(self, ctx: Context, inputs: Inputs) -> None:
        stage, model = self.stage, inputs.model_path
        if isinstance(stage, SFT):
            assert inputs.sft_stream is not None
            out = self.folder / "model"
            if not out.is_dir():
                train_sft(ctx, model, inputs.sft_stream, inputs.sft_held_out).rename(out)
            return
        if isinstance(stage, RewardTraining):
            data, held_out = self._resolved(stage.reward.data), self._resolved(stage.reward.eval_data)
            train_reward_model(ctx, model, dataclasses.replace(stage.reward, data=data, eval_data=held_out))
            return
        assert inputs.scorer is not None
        if isinstance(stage, GRPO):
            assert inputs.stream is not None
            train_grpo(ctx, model, inputs.stream, inputs.eval_prompts, inputs.scorer)
            export_model(ctx)
        elif isinstance(stage, Reject) and is_taught(stage):
            with closing(self.machines.make_judging(ctx.cfg)) as judging:
                reject(ctx, model, inputs.prompts, inputs.scorer, stage.reject, judging)
        elif isinstance(stage, Reject):
            reject(ctx, model, inputs.prompts, inputs.scorer, stage.reject)
        elif isinstance(stage, Evaluate):
            evaluate_model(ctx, model, inputs.eval_prompts, inputs.scorer)
        else:
            raise AhaError(f"stage {stage.name}: nothing runs a {type(stage).__name__}")

    def _config(self) -> RunConfig:
        """The stage as a run in its folder, its references replaced by paths."""
        cfg = run_config(self.recipe, self.stage)
        path = resolve_model(self._path(cfg.model.path, "model"))
        cfg = with_teachers(cfg, lambda name: resolve_model(self._path(name, "model")))
        sft = dataclasses.replace(
            cfg.sft, data=self._resolved(cfg.sft.data), eval_data=self._resolved(cfg.sft.eval_data)
        )
        evaluation = dataclasses.replace(
            cfg.evaluation,
            data=self._resolved(cfg.evaluation.data),
            shots_data=self._resolved(cfg.evaluation.shots_data),
        )
        return dataclasses.replace(
            cfg, name=self.folder.name, model=dataclasses.replace(cfg.model, path=path), sft=sft,
            prompts=self._resolved(cfg.prompts), evaluation=evaluation, rewards=tuple(
                self._reward(name, reward) for name, reward in (named(cfg.rewards) if cfg.rewards else {}).items()
            ),
        )  # fmt: skip

    def _ask(self) -> AskConfig | None:
        """How a rejection stage puts its questions, its references replaced by paths; None for other stages."""
        if not isinstance(self.stage, Reject):
            return None
        ask = self.stage.reject.ask
        return dataclasses.replace(ask, shots_data=self._resolved(ask.shots_data))

    def _trained_on(self, cfg: EvalConfig) -> list[DataConfig]:
        """What stages before trained the model on, where the evaluation is to be compared with it."""
        if not cfg.data.source or cfg.contamination == "off":
            return []
        return [self._resolved(data) for data in trained_on(self.recipe, self.stage)]

    def _resolved(self, data):  # type: ignore[no-untyped-def]
        return dataclasses.replace(data, source=self._path(data.source, "data.jsonl"))

    def _reward(self, name: str, reward: RewardConfig) -> RewardConfig:
        """A reward model of an earlier stage by its path, under the name that it has in the recipe."""
        if Reference.parse(reward.function.removeprefix(MODEL)) is None:
            return reward
        path = self._path(reward.function.removeprefix(MODEL), "model")
        return dataclasses.replace(reward, function=MODEL + path, name=name)

    def _path(self, text: str, default: str) -> str:
        """The file or folder that a reference names; other texts are left alone."""
        ref = Reference.parse(text)
        if ref is None:
            return text
        path = self.folders[ref.stage] / (ref.file or default)
        if not path.exists():
            what = (
                "model"
                if isinstance(self.recipe[ref.stage], (*MAKES_MODEL, RewardTraining)) and not ref.file
                else path.name
            )
            raise BadInput(f"stage {self.stage.name}: {text}: stage {ref.stage} has made no {what} in {path.parent}")
        return str(path)

    def _counts(self) -> dict[str, object]:
        """Steps and tokens of the stage, from what it wrote."""
        counts: dict[str, object] = {}
        for record in read_metrics(self.folder):
            stage = str(record["stage"])
            counts[f"{stage} steps"] = int(str(record["step"])) + 1
            for name in ("tokens", "rollout/tokens", "learner/tokens"):
                value = record.get(name)
                if isinstance(value, int | float):
                    counts[name] = float(str(counts.get(name, 0.0))) + value
        return counts
