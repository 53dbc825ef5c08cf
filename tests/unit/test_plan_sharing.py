"""`aha plan` of learners and samplers on the same GPUs, of one card, and of who gets which GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.plan.checks import devices_needed
from launch.plan.hardware import GIB, find_hardware
from launch.plan.host import PROCESS_GIB, host_memory
from launch.plan.placement import placement_table
from launch.plan.plan import Plan, plan_run
from launch.plan.rollouts import Lengths
from launch.plan.show import advice, sharing_lines
from launch.recipes import load
from recipes import card_24gb, card_80gb
from rl.config import RunConfig
from rl.recipe import Recipe
from rl.settings.overrides import apply_overrides

CARDS = ("RTX4090-24G", "H100-80G", "H200-141G")
LENGTHS = Lengths(median=300, sigma=0.5, limit=1024, prompt=128)
SHAPES = {
    "tiny countdown quickstart r1_mini search guess card_24gb card_80gb": [
        "1 GPU",
        "  node 1: learner rank 0 on GPU 0; sampler 0 on GPU 0",
        "2 GPUs",
        "  node 1: learner rank 0 on GPU 0; sampler 0 on GPU 1",
        "8 GPUs",
        "  node 1: learner rank 0 on GPU 0; sampler 0 on GPU 1",
        "2 x 8 GPUs",
        "  node 1: learner rank 0 on GPU 0; sampler 0 on GPU 1",
    ],
    "r1_zero:size=7b dapo dr_grpo": [
        "1 GPU",
        "  the cluster has 1 GPU, but 4 learner ranks and 4 samplers need 8; lower learner.ranks or sampler.count",
        "2 GPUs",
        "  the cluster has 2 GPUs, but 4 learner ranks and 4 samplers need 8; lower learner.ranks or sampler.count",
        "8 GPUs",
        "  node 1: learner ranks 0-3 on GPU 0-3; samplers 0-3 on GPU 4-7",
        "2 x 8 GPUs",
        "  node 1: learner ranks 0-3 on GPU 0-3; samplers 0-3 on GPU 4-7",
    ],
    "cold_start gsm8k_targets": [
        "1 GPU",
        "  the cluster has 1 GPU, but sampler.tensor_parallel=4 needs 4 on one node; lower it",
        "2 GPUs",
        "  the cluster has 2 GPUs, but sampler.tensor_parallel=4 needs 4 on one node; lower it",
        "8 GPUs",
        "  node 1: learner ranks 0-3 on GPU 0-3; sampler 0 on GPU 4-7",
        "2 x 8 GPUs",
        "  node 1: learner ranks 0-3 on GPU 0-3; sampler 0 on GPU 4-7",
    ],
    "distill_students": [
        "1 GPU",
        "  the cluster has 1 GPU, but 8 learner ranks and 1 sampler need 9; lower learner.ranks or sampler.count",
        "2 GPUs",
        "  the cluster has 2 GPUs, but 8 learner ranks and 1 sampler need 9; lower learner.ranks or sampler.count",
        "8 GPUs",
        "  the cluster has 8 GPUs, but 8 learner ranks and 1 sampler need 9; lower learner.ranks or sampler.count",
        "2 x 8 GPUs",
        "  node 1: learner ranks 0-7 on GPU 0-7",
        "  node 2: sampler 0 on GPU 0",
    ],
}
"""Recipes -> where their workers are. The rest need more than 16 GPUs."""
TOO_LARGE = {"r1": 44, "r1_zero": 48, "sky_t1": 17}
"""Recipes -> the GPUs of their learners and samplers."""


def base_of(name: str) -> RunConfig:
    file, _, override = name.partition(":")
    made = load(f"recipes/{file}.py", [override] if override else [])
    return made.base if isinstance(made, Recipe) else made


def planned(cfg: RunConfig, card: str, gpus: int = 1) -> Plan:
    return plan_run(cfg, find_hardware(card, nodes=1, gpus_per_node=gpus), lengths=LENGTHS)


# ------------------------------------------------------------------------------------------------ who gets which GPU


@pytest.mark.parametrize(("name", "table"), [(name, of) for names, of in SHAPES.items() for name in names.split()])
def test_each_shipped_recipe_is_placed_as_a_person_would(name, table):
    assert placement_table(base_of(name)) == table


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_recipe_for_more_gpus_says_how_many(name):
    assert f"need {TOO_LARGE[name]}" in placement_table(base_of(name))[-1]


def test_the_tables_name_every_shipped_recipe():
    from tests.unit.test_recipes import files

    named = {name.partition(":")[0] for names in SHAPES for name in names.split()}
    assert named | set(TOO_LARGE) == set(files())


# ------------------------------------------------------------------------------------------------ one card


@pytest.mark.parametrize(
    ("cfg", "card"),
    [
        (card_24gb.recipe(), "RTX4090-24G"),
        (card_24gb.recipe("0.5b"), "RTX4090-24G"),
        (card_80gb.recipe(), "H100-80G"),
        (card_80gb.recipe(), "H200-141G"),
    ],
)
def test_the_recipes_for_one_card_fit_it(cfg, card):
    plan = planned(cfg, card)
    assert plan.problems == ()
    shared = plan.shared
    assert shared is not None
    assert max(shared.training, shared.sampling) < plan.hw.memory_gib * GIB
    assert plan.sampler.mean_sequences > 50


def test_the_two_on_one_card_are_summed_while_each_works():
    plan = planned(card_24gb.recipe(), "RTX4090-24G")
    shared = plan.shared
    assert shared is not None
    assert shared.training == plan.learner.peak + 1.0 * GIB
    assert shared.sampling == plan.learner.at_rest + plan.sampler.peak
    total = plan.learner.limit
    assert plan.share * total < total - plan.learner.at_rest < (plan.share + 0.05) * total
    resting = {t.name for t in plan.learner.terms if t.num_bytes} - {"activations", "logits chunk", "allocator"}
    assert plan.learner.at_rest == pytest.approx(
        sum(t.num_bytes for t in plan.learner.terms if t.name in resting - {"weights' gradients", "flat gradients"})
    )
    together, apart = sharing_lines(plan)
    assert together.endswith(": fits")
    assert "share of" in together
    assert apart.startswith("Two of them")
    assert apart.endswith(": fits")


def test_on_two_cards_nothing_is_shared():
    plan = planned(card_24gb.recipe(), "RTX4090-24G", gpus=2)
    assert plan.shared is None
    assert sharing_lines(plan) == []
    assert plan.share == 0.9


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("overrides", [["model.lora.rank=0"], ["model.path=Qwen/Qwen2.5-3B", "model.lora.rank=0"]])
def test_where_both_do_not_fit_the_change_that_is_offered_makes_them_fit(card, overrides):
    cfg = apply_overrides(card_24gb.recipe(), overrides)
    plan = planned(cfg, card)
    found = advice(plan)
    assert bool(found) == bool(plan.problems)
    if found:
        knobs = (
            found[0][found[0].index("(") + 1 :].replace(")", "").replace("; with adapters alone trained:", "").split()
        )
        assert planned(apply_overrides(cfg, knobs), card).problems == ()


def test_a_change_that_helps_the_learner_alone_is_not_offered():
    whole = ["model.lora.rank=0", "model.path=Qwen/Qwen2.5-0.5B", "learner.gradient_checkpointing=false"]
    cfg = apply_overrides(card_24gb.recipe(), [*whole, "learner.micro_batch_tokens=6144"])
    plan = planned(cfg, "RTX4090-24G")
    assert plan.learner.fits
    assert "1.00 of the sleeping sampler" in plan.problems[0]
    assert advice(plan)
    cfg = apply_overrides(card_24gb.recipe(), ["model.lora.rank=0", "learner.micro_batch_tokens=32768"])
    (line,) = advice(planned(cfg, "RTX4090-24G"))  # offload alone would do for a learner that has the card to itself
    assert "learner.micro_batch_tokens=16384 learner.offload=optimizer" in line
    changed = apply_overrides(cfg, ["learner.micro_batch_tokens=16384", "learner.offload=optimizer"])
    assert planned(changed, "RTX4090-24G").problems == ()


def test_adapters_are_offered_where_training_all_weights_never_fits():
    cfg = apply_overrides(card_80gb.recipe(), ["model.lora.rank=0", "model.path=Qwen/Qwen2.5-14B"])
    found = advice(planned(cfg, "H100-80G"))
    assert "model.lora.rank=16" in found[0]


def test_two_cards_are_offered_where_each_fits_only_alone():
    cfg = apply_overrides(card_80gb.recipe(), ["sampler.gpu_memory_share=0.9"])
    plan = planned(cfg, "H100-80G")
    assert "beside a learner at rest" in plan.problems[0]
    assert sharing_lines(plan)[0].endswith("does not fit")
    assert sharing_lines(plan)[1].endswith(": fits")


def test_the_optimiser_on_the_host_frees_what_it_held():
    cfg = apply_overrides(card_24gb.recipe(), ["model.lora.rank=0"])
    here, away = planned(cfg, "H100-80G"), planned(apply_overrides(cfg, ["learner.offload=optimizer"]), "H100-80G")
    assert here.learner.at_rest - away.learner.at_rest == pytest.approx(16 * here.arch.parameters, rel=0.1)
    on_cpu = replace(find_hardware("cpu", nodes=1, gpus_per_node=1))
    assert not plan_run(apply_overrides(cfg, ["learner.offload=optimizer"]), on_cpu, lengths=LENGTHS).shape.offload


def test_the_host_holds_the_optimiser_and_the_weights_of_a_sleeping_sampler():
    cfg = apply_overrides(card_24gb.recipe(), ["model.lora.rank=0", "learner.offload=optimizer"])
    plan = planned(cfg, "H100-80G")
    weights = 2.0 * plan.arch.parameters
    both = host_memory(plan.arch, plan.shape, plan.hw, samplers=1, sleeping=weights)
    assert both.num_bytes == 16.0 * plan.arch.parameters + weights + PROCESS_GIB * GIB
    assert both.note == "the optimiser, while training; weights of sleeping samplers"
    here = host_memory(plan.arch, replace(plan.shape, offload=False), plan.hw, samplers=1)
    assert here.num_bytes == 4.0 * plan.arch.parameters + PROCESS_GIB * GIB
    two = host_memory(
        plan.arch, replace(plan.shape, ranks=16), replace(plan.hw, nodes=2, devices_per_node=8), samplers=0
    )
    assert two.num_bytes == max(32.0, 8.0) * plan.arch.parameters + 8 * PROCESS_GIB * GIB  # the float32 models are more


def test_one_gpu_is_enough_only_where_both_can_share_it():
    one = find_hardware("H100-80G", nodes=1, gpus_per_node=1)
    assert devices_needed(card_80gb.recipe(), one) == 1
    assert devices_needed(apply_overrides(card_80gb.recipe(), ["learner.ranks=3", "sampler.count=3"]), one) == 6
    assert devices_needed(apply_overrides(card_80gb.recipe(), ["cluster.colocated=false"]), one) == 2
