"""Twelve silent faults, planted one by one: which check names each, and after how many updates.

    .venv/bin/python tests/bench/planted_faults.py                  # all, some minutes
    .venv/bin/python tests/bench/planted_faults.py --only "stale head"

Each is planted in the tiny recipe, shortened, on the backend of the doctor's unit tests: learner and sampler in this
process in plain torch, with the run's own stages, packing, loss and checks around them. Every fault is looked for
twice: by the run itself, and by `aha doctor`. Exit code 1 when one stays unnamed, or when a sound run is accused.
tests/integration/test_doctor.py plants the same kinds inside real workers.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from launch.doctor import exam  # noqa: E402
from launch.doctor.all_checks import AllChecks  # noqa: E402
from launch.doctor.check import Outcome  # noqa: E402
from recipes import tiny  # noqa: E402
from recipes.tasks import tiny_train  # noqa: E402
from rl.config import CheckpointConfig, DataConfig, EvalConfig, RewardConfig, RunConfig, TrackConfig  # noqa: E402
from rl.data.streams import PromptStream  # noqa: E402
from rl.types import AhaError, Prompt  # noqa: E402
from rl.workflow.run import run  # noqa: E402
from tests.unit.pretend import PretendBackend  # noqa: E402

HERE = "tests.bench.planted_faults"
STEPS = 4


# ------------------------------------------------------------------------------------------------ a sound task


def rows() -> list[dict[str, object]]:
    """ "reverse 4719:" -> 9. A model with random weights is right now and then."""
    kept = itertools.islice(tiny_train(), 40)
    return [{**row, "answer": str(row["answer"])[0], "target": str(row["answer"])[0]} for row in kept]


def first_digit(completion: str, *, answer: str, **columns: object) -> float:
    """A sound verifier: the first digit is the answer."""
    return float(next((c for c in completion if c.isdigit()), "") == answer)


# ------------------------------------------------------------------------------------------------ the faults


def dead(completion: str, **columns: object) -> float:
    """Looks for a form of answer that nobody gives."""
    return float("ANSWER:" in completion)


def lenient(completion: str, **columns: object) -> float:
    """Calls whatever has a digit in it right."""
    return float(any(c.isdigit() for c in completion))


def with_rewards(*rewards: RewardConfig) -> Callable[[RunConfig], RunConfig]:
    return lambda cfg: dataclasses.replace(cfg, rewards=rewards)


def other_template(cfg: RunConfig) -> RunConfig:
    """SFT teaches another template than the prompts have; the doctor alone can see it."""
    data = dataclasses.replace(cfg.sft.data, template="{prompt} ")
    return dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, steps=1, data=data))


def warmer(cfg: RunConfig) -> RunConfig:
    return dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, temperature=0.7))


@contextmanager
def skipping() -> Iterator[None]:
    """The stream hands out every second prompt."""
    take = PromptStream.take

    def every_second(stream: PromptStream, n: int) -> list[Prompt]:
        return take(stream, 2 * n)[::2]

    with mock.patch.object(PromptStream, "take", every_second):
        yield


@dataclass(frozen=True)
class Fault:
    """plants: of PretendBackend. change: of the recipe. spoil: what is wrong in the trainer while the run goes on.

    run, doctor: what must be in the run's error or warning, and the doctor's check that must fail or warn; "" where
    that side cannot see it.
    """

    name: str
    run: str
    doctor: str
    plants: Mapping[str, object] = field(default_factory=dict)
    change: Callable[[RunConfig], RunConfig] = lambda cfg: cfg
    spoil: Callable[[], AbstractContextManager[None]] = nullcontext
    damages: bool = False


FAULTS = (
    Fault("stale head", "other weights", "update is used", {"keeps": "lm_head"}),
    Fault("frozen layer", "frozen layer", "update", {"frozen": "layers.2."}),
    Fault("wrong stop", "wrong stop", "sampler stops", {"deaf_to_stop": True}),
    Fault("other template", "sampler and learner disagree", "logprobs", {"other_prompt": True}),
    Fault("wrong denominator", "", "loss", {"per_micro_batch": True}),
    Fault("dead verifier", "dead verifier dead", "reward dead", change=with_rewards(RewardConfig(f"{HERE}:dead"))),
    Fault(
        "lenient verifier", "lenient verifier lenient", "reward lenient",
        change=with_rewards(RewardConfig(f"{HERE}:lenient")),
    ),
    Fault("repeated samples", "repeated samples", "samples differ", {"one_seed": True}),
    Fault("raw logprobs", "sampler and learner disagree", "logprobs", {"raw": True}, warmer),
    Fault("skipped data", "skipped data", "", spoil=skipping),
    Fault("lost update", "other weights", "update is used", {"keeps": "."}),
    Fault("damaged checkpoint", "is not what was saved", "the run's checkpoints", damages=True),
)  # fmt: skip
SIBLINGS = (
    Fault("stale from the start", "sampler and learner disagree", "logprobs", {"stale_head": True}),
    Fault("one kind of layer stale", "other weights", "update is used", {"keeps": "up_proj"}),
    Fault("scrambled layers", "other weights", "logprobs after the update", {"scrambles": "down_proj"}),
    Fault("nothing is updated", "lost update", "update", {"lost": True}),
    Fault("SFT's template", "", "template", change=other_template),
)


# ------------------------------------------------------------------------------------------------ who names them


@dataclass(frozen=True)
class Found:
    """What named the fault. updates: of the optimiser before it did."""

    text: str
    updates: int = 0


def short_recipe(folder: Path) -> RunConfig:
    cfg, data = tiny.recipe(), DataConfig(source=f"{HERE}:rows", template="plain")
    return dataclasses.replace(
        cfg,
        out=str(folder),
        rewards=(RewardConfig(f"{HERE}:first_digit"), RewardConfig("format", weight=0.2)),
        sft=dataclasses.replace(cfg.sft, steps=0, data=data),
        prompts=data,
        grpo=dataclasses.replace(cfg.grpo, steps=STEPS, prompts_per_step=8, group_size=4),
        rollout=dataclasses.replace(cfg.rollout, max_new_tokens=12),
        evaluation=EvalConfig(),
        checkpoint=CheckpointConfig(every=1),
        track=TrackConfig(wandb="off"),
    )


def by_the_run(fault: Fault, folder: Path) -> list[Found]:
    """The warnings and the error of a run with the fault in it."""
    cfg = fault.change(short_recipe(folder))
    cfg = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, steps=0))
    backends: list[PretendBackend] = []
    heard = _Heard(backends)
    logging.getLogger("rl").addHandler(heard)
    try:
        with fault.spoil():
            if fault.damages:
                shorter = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, steps=STEPS - 1))
                _run(shorter, {}, backends)
                damage(cfg.run_dir)
            _run(cfg, fault.plants, backends)
    except AhaError as error:
        heard.found.append(Found(str(error), updates_of(backends)))
    finally:
        logging.getLogger("rl").removeHandler(heard)
    return heard.found


def _run(cfg: RunConfig, plants: Mapping[str, object], backends: list[PretendBackend]) -> None:
    def make(cfg: RunConfig) -> PretendBackend:
        backends.append(PretendBackend(cfg, **plants))
        return backends[-1]

    run(cfg, make)  # type: ignore[arg-type]


class _Heard(logging.Handler):
    def __init__(self, backends: list[PretendBackend]) -> None:
        super().__init__(logging.WARNING)
        self.backends, self.found = backends, list[Found]()

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(Found(record.getMessage(), updates_of(self.backends)))


def updates_of(backends: list[PretendBackend]) -> int:
    return backends[-1].updates if backends else 0


def damage(run_dir: Path) -> None:
    """Flip a bit in the newest checkpoint's largest file."""
    newest = max((run_dir / "checkpoints" / "grpo").iterdir(), key=lambda path: path.name)
    file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def by_the_doctor(fault: Fault, folder: Path) -> list[Found]:
    """The doctor's checks that fail or warn."""
    cfg = fault.change(short_recipe(folder))
    if fault.damages:
        _run(dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, steps=1)), {}, [])
        damage(cfg.run_dir)
    with mock.patch.object(exam, "PROMPTS", 2), fault.spoil():
        checks = list(AllChecks(cfg, lambda cfg: PretendBackend(cfg, **fault.plants)).checks())  # type: ignore[arg-type, return-value]
    bad = (Outcome.FAILED, Outcome.WARNED)
    return [Found(f"{check.name}: {check.measured}") for check in checks if check.outcome in bad]


def named_by(found: list[Found], text: str, *, check: bool = False) -> Found | None:
    """The first that says so. check: that is of this check."""
    said = (f for f in found if (f.text.startswith(f"{text}:") if check else text in f.text))
    return next(said, None) if text else None


# ------------------------------------------------------------------------------------------------ the command


def row(fault: Fault) -> tuple[str, str, str]:
    """(name, what the run said and when, the doctor's check) for the table."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        run_found = named_by(by_the_run(fault, Path(one)), fault.run)
        doctor_found = named_by(by_the_doctor(fault, Path(other)), fault.doctor, check=True)
    when = f"{run_found.updates} update{'s' * (run_found.updates != 1)}" if run_found else ""
    return fault.name, f"{fault.run!r}, {when}" if run_found else "", fault.doctor if doctor_found else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one fault, by its name")
    only = parser.parse_args().only
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ[name] = "1"
    os.chdir(ROOT)  # where the tiny model is, or is made
    faults = [f for f in (*FAULTS, *SIBLINGS) if only in (None, f.name)]
    if not faults:
        parser.error(f"--only {only}: there is no such fault; there are {', '.join(f.name for f in FAULTS)}")
    print("| fault | the run says | the doctor's check |\n|---|---|---|")
    missed = 0
    for fault in faults:
        name, said, check = row(fault)
        missed += not (said or check) or bool(fault.run) != bool(said) or bool(fault.doctor) != bool(check)
        print(f"| {name} | {said or 'nothing'} | {check or 'none'} |", flush=True)
    if not only:
        sound = Fault("none: a sound run", "", "")
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            accused = [*by_the_run(sound, Path(one)), *by_the_doctor(sound, Path(other))]
        missed += bool(accused)
        print(f"| {sound.name} | {'; '.join(f.text for f in accused) or 'nothing'} | none |")
    print(f"\n{missed} not named as expected" if missed else "\nall are named")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
