"""`aha plan` as a user meets it: quickly, without a device, with advice that holds."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch import cli
from launch.plan.checks import devices_needed
from launch.plan.hardware import find_hardware, this_machine
from launch.plan.plan import Plan, grpo_passes, learner_shape, plan_run
from launch.plan.rollouts import Lengths
from launch.plan.show import advice, count, duration
from recipes.distill_students import STUDENTS
from rl.config import GRPOConfig, LearnerConfig, ModelConfig, RewardConfig, RolloutConfig, RunConfig, SamplerConfig
from rl.settings.overrides import apply_overrides

ROOT = Path(__file__).resolve().parents[2]
H100 = find_hardware("H100-80G", nodes=2, gpus_per_node=8)
LENGTHS = Lengths(median=1500, sigma=0.7, limit=4096, prompt=200)


def run_of(**learner: object) -> RunConfig:
    """GRPO of Qwen2.5-7B: 64 prompts x 16 samples, 8 learner ranks, 8 samplers."""
    return RunConfig(
        model=ModelConfig(path="Qwen/Qwen2.5-7B"),
        rewards=(RewardConfig("accuracy"),),
        rollout=RolloutConfig(max_new_tokens=4096),
        grpo=GRPOConfig(steps=100, prompts_per_step=64, group_size=16, kl_coef=0.001),
        learner=LearnerConfig(**{"ranks": 8, "zero_stage": 3, "micro_batch_tokens": 8192,
                                 "gradient_checkpointing": True} | learner),
        sampler=SamplerConfig(count=8),
    )  # fmt: skip


def plan_of(cfg: RunConfig, **options: object) -> Plan:
    return plan_run(cfg, H100, lengths=LENGTHS, price=2.0, **options)


@dataclass(frozen=True)
class Answer:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capsys, monkeypatch) -> Callable[..., Answer]:
    """Runs `aha plan` with these words, in this process."""

    def run(*words: str) -> Answer:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["aha", "plan", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return run


# ------------------------------------------------------------------------------------------------ the plan


def test_time_and_money_follow_from_the_step():
    plan = plan_of(run_of())
    assert plan.step is not None
    step = plan.step
    assert step.synchronous_s == pytest.approx(step.rollout.seconds + step.update.seconds + step.sync.seconds)
    assert plan.cost.grpo_s == pytest.approx(100 * step.synchronous_s)
    assert plan.cost.device_hours == pytest.approx(plan.cost.seconds / 3600 * 16)
    assert plan.cost.money == pytest.approx(2 * plan.cost.device_hours)


def test_overlapping_sampling_and_training_saves_the_shorter_of_the_two_and_the_tail():
    step = plan_of(run_of()).step
    assert step is not None
    assert step.continuous_s < step.rollout.seconds
    assert step.asynchronous_s == pytest.approx(max(step.continuous_s, step.update.seconds) + step.sync.seconds)


def test_an_asynchronous_recipe_is_counted_as_one():
    cfg = run_of()
    cfg = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, staleness=1, in_flight=True))
    plan = plan_of(cfg)
    assert plan.step is not None
    assert plan.cost.grpo_s == pytest.approx(100 * plan.step.asynchronous_s)


def test_an_overlapped_recipe_waits_for_the_tail_of_the_batch_that_is_sampled_meanwhile():
    cfg = run_of()
    cfg = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, staleness=1))
    plan = plan_of(cfg)
    assert plan.step is not None
    step = plan.step
    assert step.overlapped_s == pytest.approx(max(step.rollout.seconds, step.update.seconds) + step.sync.seconds)
    assert step.asynchronous_s <= step.overlapped_s < step.synchronous_s
    assert plan.cost.grpo_s == pytest.approx(100 * step.overlapped_s)


def test_rollouts_beside_the_training_need_devices_of_their_own():
    cfg = dataclasses.replace(run_of(), rollout=RolloutConfig(max_new_tokens=64, staleness=1))
    assert not any("take turns" in problem for problem in plan_of(cfg).problems)
    one_gpu = find_hardware("H100-80G", nodes=1, gpus_per_node=1)
    cfg = dataclasses.replace(cfg, learner=LearnerConfig(), sampler=SamplerConfig())
    assert any("rollout.staleness=1: learners and samplers share devices" in p for p in plan_run(cfg, one_gpu).problems)


def test_a_queue_that_is_larger_than_the_drivers_memory_is_a_problem():
    cfg = run_of()
    cfg = dataclasses.replace(cfg, rollout=RolloutConfig(staleness=64, in_flight=True, max_new_tokens=4096))
    gib = 65 * 64 * 16 * (4096 * 12 + 2048) / 2**30
    here = dataclasses.replace(this_machine(), memory_gib=gib - 0.1)
    problems = plan_run(cfg, here, lengths=LENGTHS).problems
    assert any("up to 66,560 samples of 4,096 tokens are under way and may take 3 GiB" in p for p in problems)
    roomy = dataclasses.replace(here, memory_gib=gib + 0.1)
    assert not any("under way" in problem for problem in plan_run(cfg, roomy, lengths=LENGTHS).problems)


def test_more_samplers_shorten_the_rollouts_and_nothing_else():
    few, many = plan_of(run_of()), plan_of(dataclasses.replace(run_of(), sampler=SamplerConfig(count=16)))
    assert few.step is not None
    assert many.step is not None
    assert many.step.rollout.seconds < few.step.rollout.seconds
    assert many.step.update == few.step.update


def test_the_packer_of_the_run_counts_the_micro_batches():
    cfg, lengths = run_of(ranks=4, micro_batch_tokens=1000), Lengths(median=400, sigma=1e-9, limit=4096, prompt=100)
    plan = plan_run(cfg, H100, lengths=lengths)
    work, padding = grpo_passes(cfg, plan.shape, lengths)
    # 1,024 rollouts of 500 tokens, two in each of 512 micro-batches, on four ranks.
    assert (work.micro_batches, work.tokens, padding) == (128, 1024 * 500, 0.0)
    assert work.scored == 1024 * 400
    assert work.forwards == 1  # the reference


def test_a_shared_prompt_is_counted_once_for_each_part_of_a_group():
    cfg, lengths = run_of(ranks=1, micro_batch_tokens=3300), Lengths(median=400, sigma=1e-9, limit=4096, prompt=100)
    assert cfg.grpo.group_size == 16
    shape = plan_run(cfg, H100, lengths=lengths).shape
    work, padding = grpo_passes(cfg, shape, lengths, shared=True)
    # 64 groups of 16 completions; two micro-batches of 100 + 8 * 400 tokens hold one.
    assert (work.micro_batches, work.tokens, padding) == (128, 128 * 3300, 0.0)
    assert work.scored == 1024 * 400


def test_the_plan_shares_prompts_where_the_run_does():
    cfg = apply_overrides(run_of(), ["grpo.updates_per_step=1", "cluster.device=cpu"])
    settings = [apply_overrides(cfg, [f"learner.share_prompts={value}"]) for value in ("auto", "true", "false")]
    on_cpus, on_gpus = ([plan_run(c, hw, lengths=LENGTHS) for c in settings] for hw in (this_machine(), H100))
    assert [p.step.update.seconds < 0.95 * on_cpus[2].step.update.seconds for p in on_cpus] == [True, True, False]
    assert [p.step.update.seconds < 0.95 * on_gpus[2].step.update.seconds for p in on_gpus] == [False, True, False]


def test_sixteen_updates_a_batch_score_the_old_logprobs_first():
    cfg = run_of()
    cfg = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, updates_per_step=16))
    plan = plan_of(cfg)
    work, _ = grpo_passes(cfg, plan.shape, LENGTHS)
    assert (work.forwards, work.updates) == (2, 16)


def test_an_update_too_small_for_a_micro_batch_needs_less_memory():
    cfg = apply_overrides(run_of(), ["grpo.prompts_per_step=1", "grpo.group_size=8"])
    shape = learner_shape(cfg, plan_of(cfg).arch, H100, Lengths(50, 0.5, 100, 20), 0)
    assert shape.tokens == 120  # 8 rollouts of at most 120 tokens on 8 ranks


def test_colocated_samplers_take_no_gpus_of_their_own():
    cfg = run_of()
    assert devices_needed(cfg, H100) == 16
    together = dataclasses.replace(cfg, cluster=dataclasses.replace(cfg.cluster, weight_transfer="ipc"))
    assert devices_needed(together, H100) == 8


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["learner.ranks=16"], "24 GPUs are needed"),
        (["learner.micro_batch_tokens=4000"], "less than a prompt and a completion"),
        (["sampler.tensor_parallel=16", "sampler.count=1"], "more than a node's GPUs"),
        (
            ["model.path=meta-llama/Llama-3.1-70B", "learner.zero_stage=2", "learner.ranks=64"],
            "while it loads the model in float32",
        ),
        (["learner.gradient_checkpointing=false", "learner.micro_batch_tokens=32768"], "in training"),
    ],
)
def test_what_does_not_work_is_said(overrides, problem):
    assert problem in "\n".join(plan_of(apply_overrides(run_of(), overrides)).problems)


def test_a_plan_that_fits_has_no_problem_and_no_advice():
    plan = plan_of(run_of())
    assert plan.problems == ()
    assert plan.fits
    assert advice(plan) == []


def test_the_advice_taken_makes_it_fit():
    cfg = run_of(gradient_checkpointing=False, micro_batch_tokens=16384)
    plan = plan_of(cfg)
    assert not plan.learner.fits
    first = advice(plan)[0]
    knobs = first[first.rindex("(") + 1 : -1].split()
    changed = plan_of(apply_overrides(cfg, knobs))
    assert changed.learner.fits
    assert f"{changed.learner.peak / 2**30:.0f} of 80 GiB" in first


def test_what_is_assumed_is_said():
    said = "\n".join(plan_of(run_of()).assumptions)
    for part in ("config.json of Qwen/Qwen2.5-7B", "NVIDIA H100 data sheet", "median 1,500", "prompts of 200 tokens"):
        assert part in said


# ------------------------------------------------------------------------------------------------ the command


def test_it_answers_in_under_two_processor_seconds_and_loads_no_torch():
    code = (
        "import sys; from launch import cli; from launch.plan import command, published\n"
        "from recipes.quickstart import recipe\n"
        "import dataclasses; cfg = recipe()\n"
        "cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, path='Qwen/Qwen2.5-7B'))\n"
        "command.plan_command(cfg, command.PlanOptions(gpu='H100-80G'))\n"
        "print(sorted({'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


@pytest.mark.parametrize("scale", ["tiny", "laptop"])
def test_the_miniature_is_planned_though_its_models_are_not_made_yet(command, scale):
    done = command("recipes/r1_mini.py", f"scale={scale}", "--gpu", "cpu")
    assert done.returncode == 0, done.stderr
    assert "student_rl" in done.stdout


def test_a_pipe_gets_plain_text_with_the_whole_plan(command):
    done = command("recipes/tiny.py", "--gpu", "cpu")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    for part in ("16 prompts x 8 samples = 128 rollouts per step", "795,776 parameters", "Adam moments", "KV cache", "rollouts",
                 "weight sync", "asynchronous", "10 GRPO steps", "Taken for granted"):  # fmt: skip
        assert part in done.stdout, part


@pytest.mark.parametrize(
    ("words", "mode"),
    [((), "synchronous"), (("rollout.staleness=1",), "overlapped"),
     (("rollout.staleness=2", "rollout.in_flight=true"), "asynchronous")],
)  # fmt: skip
def test_the_plan_shows_all_modes_and_marks_the_recipes(command, words, mode):
    done = command("recipes/tiny.py", *words, "--gpu", "cpu")
    assert done.returncode == 0, done.stderr
    marked = [line.split()[0] for line in done.stdout.splitlines() if "this recipe" in line]
    assert marked == [mode]
    for row in ("synchronous", "overlapped", "asynchronous"):
        assert any(line.startswith(row) for line in done.stdout.splitlines()), row


def test_what_does_not_fit_ends_with_1_and_a_change(command):
    done = command("recipes/tiny.py", "model.path=Qwen/Qwen2.5-7B", "learner.micro_batch_tokens=32768",
                   "rollout.max_new_tokens=8192", "model.dtype=bfloat16", "learner.ranks=4", "--gpu", "H100-80G")  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Does not work: a learner rank needs" in done.stdout
    assert " of 80 GiB (learner." in done.stdout


def test_json_holds_the_same_numbers(command):
    done = command("recipes/tiny.py", "--gpu", "A100-80G", "--json")
    assert done.returncode == 0, done.stderr
    (data,) = json.loads(done.stdout)
    assert data["parameters"] == 795_776
    assert sum(data["learner"]["terms"].values()) == pytest.approx(data["learner"]["training"])
    assert data["step_s"]["synchronous"] > data["step_s"]["rollouts"] > 0
    shown = next(
        line
        for line in command("recipes/tiny.py", "--gpu", "A100-80G").stdout.splitlines()
        if "beside its GPUs" in line
    )
    assert f" {data['host']['bytes_per_machine'] / 2**30:.1f} " in shown
    assert data["host"]["note"] in shown
    (on_cpu,) = json.loads(command("recipes/tiny.py", "--json").stdout)
    assert on_cpu["host"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes/tiny.py", "--gpu", "H1000"], "not in launch/plan/gpus.toml"),
        (["recipes/tiny.py", "model.path=nobody/nothing"], "not among the models that aha plan knows"),
        (["recipes/tiny.py", "--price", "-1"], "must not be negative"),
        (["recipes/tiny.py", "--nodes", "-1"], "must not be negative"),
        (["recipes/tiny.py", "--gpus-per-node", "0"], "at least 1"),
        ([], "name a recipe"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(words, message, command):
    done = command(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_published_figures_stand_beside_predictions_with_their_ratio(command):
    from launch.plan.published import rows

    found = rows()
    assert {"R1_FACTS", "FIELD_NOTES", "tests/bench/README.md"} == {row.source.split()[0].rstrip(";,") for row in found}
    for row in found:
        assert row.published > 0
        assert row.ratio == pytest.approx(row.predicted / row.published)
        assert row.assumed
    done = command("--published")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ratio ") == len(found)


def test_a_large_model_is_planned_for_gpus_and_as_many_nodes_as_it_needs(command):
    done = command("recipes/tiny.py", "model.path=Qwen/Qwen2.5-7B", "learner.ranks=15", "rollout.max_new_tokens=2000",
                   "grpo.prompts_per_step=15", "--json")  # fmt: skip
    (data,) = json.loads(done.stdout)
    assert data["hardware"] == {"name": "H100-80G", "devices": 16, "source": "NVIDIA H100 data sheet, SXM"}
    assert not any("GPUs are needed" in problem for problem in data["problems"])


def test_a_model_that_is_not_there_yet_can_be_like_another(command):
    done = command("recipes/tiny.py", "model.path=runs/later/model", "--like", "Qwen/Qwen2.5-0.5B", "--json")
    assert json.loads(done.stdout)[0]["parameters"] == 494_032_768
    done = command("recipes/tiny.py", "model.path=runs/later/model")
    assert done.returncode == 2
    assert "--like" in done.stderr


def test_every_stage_of_a_recipe_is_planned_and_summed(command):
    words = ("recipes/r1.py", "--like", "Qwen/Qwen2.5-7B", "--gpu", "H200-141G", "--sft-examples", "1000")
    done = command(*words)
    for stage in ("cold_start", "reasoning_rl", "sft", "final_rl", "All stages: ", "GPU-hours"):
        assert stage in done.stdout
    plans = json.loads(command(*words, "--json").stdout)
    assert [plan["name"] for plan in plans] == ["cold_start", "reasoning_rl", "sft", "late_rl", "final_rl"]
    assert all(plan["run"]["seconds"] > 0 for plan in plans)


@pytest.mark.parametrize(
    "words",
    [
        ("r1_zero.py", "size=32b"), ("r1_zero.py", "size=7b"), ("r1.py",), ("dapo.py",), ("dr_grpo.py",), ("countdown.py",),
        ("sky_t1.py",), ("gsm8k_targets.py",), ("cold_start.py",),
        *(("distill_students.py", f"student={name}") for name in STUDENTS),
    ],
)  # fmt: skip
def test_a_full_scale_recipe_fits_the_gpus_that_it_names(command, words: tuple[str, ...]):
    assert "GPUs of 80 GB" in (ROOT / "recipes" / words[0]).read_text()
    like = ("--like", "Qwen/Qwen2.5-32B")  # R1-Zero's model is made by a recipe
    done = command(f"recipes/{words[0]}", *words[1:], *like, "--gpu", "H100-80G", "--json")
    assert done.returncode == 0, done.stderr
    assert [problem for plan in json.loads(done.stdout) for problem in plan["problems"]] == []


def test_ranks_that_share_their_sequences_hold_a_part_of_the_activations_each():
    words = ["grpo.steps=0", "sft.steps=10", "sft.examples_per_step=8", "learner.micro_batch_tokens=32768"]
    cfg = apply_overrides(run_of(), [*words, "learner.ranks=8"])
    alone = plan_of(cfg, sft_tokens=32768)
    shared = plan_of(apply_overrides(cfg, ["learner.sequence_parallel=4"]), sft_tokens=32768)
    assert (alone.shape.tokens, shared.shape.tokens) == (32768, 32768 // 4)
    activations = [next(t.num_bytes for t in p.learner.terms if t.name == "activations") for p in (alone, shared)]
    assert activations[1] == pytest.approx(activations[0] / 4)
    weights = [next(t.num_bytes for t in p.learner.terms if t.name == "weights") for p in (alone, shared)]
    assert weights[0] == weights[1]  # sharded over all ranks as before
    assert shared.problems == ()
    refused = plan_of(apply_overrides(cfg, ["learner.sequence_parallel=8"]), sft_tokens=32768)
    assert "28 attention heads and 4 key-value heads" in "\n".join(refused.problems)


def test_the_time_of_epochs_needs_the_number_of_examples():
    cfg = apply_overrides(run_of(), ["grpo.steps=0", "sft.epochs=2", "sft.examples_per_step=128"])
    assert plan_of(cfg).cost.sft_s == 0
    assert "how many examples" in "\n".join(plan_of(cfg).assumptions)
    once, twice = plan_of(cfg, sft_examples=6400), plan_of(cfg, sft_examples=12800)
    assert twice.cost.sft_s == pytest.approx(2 * once.cost.sft_s)
    assert once.cost.sft_s > 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.42 s"), (47, "47 s"), (600, "10 min"), (7200, "2 h"), (864000, "10 days")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(795_776, "795,776"), (134_515_008, "135 million"), (7.62e9, "7.62 billion")]
)
def test_large_numbers_read_as_people_say_them(number, text):
    assert count(number) == text


def test_the_plan_says_what_host_memory_a_machine_with_gpus_needs_and_nothing_of_it_on_cpus(command):
    on_gpus = command("recipes/r1_zero.py", "--gpu", "H100-80G")
    assert "a machine, beside its GPUs" in on_gpus.stdout
    on_cpus = command("recipes/tiny.py", "--gpu", "cpu")
    assert on_cpus.returncode == 0
    assert "beside its GPUs" not in on_cpus.stdout
