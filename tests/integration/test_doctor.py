"""`aha doctor` on real workers: a sound recipe passes, and each fault planted inside a worker is found and named.

One set of workers serves all tests of this file: a fault is planted in a live worker, the checks concerned are made,
and the fault is taken out again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from launch.doctor import after_update, durability, nodes, numbers, reward_checks, texts
from launch.doctor.all_checks import AllChecks
from launch.doctor.check import Check, Outcome, run_probes
from launch.doctor.machines import RayDoctorBackend
from launch.doctor.node_probe import versions
from rl.config import RewardConfig, RunConfig
from rl.scoring.routing import named

HELPERS = "tests.integration.helpers"
HEAD = "lm_head.weight"


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AllChecks]:
    """The tiny recipe on started workers, its first round made."""
    from recipes.tiny import recipe

    tiny = recipe()
    cfg = dataclasses.replace(
        tiny,
        out=str(tmp_path_factory.mktemp("doctor")),
        rewards=(*tiny.rewards, RewardConfig(f"{HELPERS}:always_zero"), RewardConfig(f"{HELPERS}:raises")),
        prompts=dataclasses.replace(tiny.prompts, limit=40),
        rollout=dataclasses.replace(tiny.rollout, max_new_tokens=24),
    )
    found = AllChecks(cfg, RayDoctorBackend)
    found.exam.folder.mkdir(parents=True)
    (found.exam.folder / found.exam.token).touch()
    found.first = {check.name: check for check in run_probes(found.probes())}  # type: ignore[attr-defined]
    yield found
    found.exam.close()


def planted_rewards(name: str) -> bool:
    return name in ("reward always_zero", "reward raises")


def test_the_tiny_recipe_passes_every_check_but_those_of_the_two_bad_rewards(rounds: AllChecks) -> None:
    first: dict[str, Check] = rounds.first  # type: ignore[attr-defined]
    bad = {n: c.measured for n, c in first.items() if c.outcome is Outcome.FAILED and not planted_rewards(n)}
    assert bad == {}
    assert [n for n, c in first.items() if c.outcome is Outcome.SKIPPED] == ["the run's checkpoints"]
    assert "2 node(s) and the driver" in first["versions"].measured
    assert "was started 1 time(s) again" in first["killed sampler returns"].measured


def test_a_verifier_that_always_returns_0_and_one_that_raises_are_named_inside_the_real_workers(
    rounds: AllChecks,
) -> None:
    first: dict[str, Check] = rounds.first  # type: ignore[attr-defined]
    assert first["reward always_zero"].outcome is Outcome.FAILED
    assert "always returns 0" in first["reward always_zero"].cause
    assert first["reward raises"].outcome is Outcome.FAILED
    assert "KeyError: 'solution'" in first["reward raises"].measured


# ------------------------------------------------------------------------------------------------ plants


def backend(rounds: AllChecks) -> RayDoctorBackend:
    assert isinstance(rounds.exam.backend, RayDoctorBackend)
    return rounds.exam.backend


@contextmanager
def planted(handles: list, plant: Callable, take_out: Callable) -> Iterator[None]:  # type: ignore[type-arg]
    """Run plant(worker) inside every worker, and take_out(worker) at the end."""
    ray.get([h.__ray_call__.remote(plant) for h in handles], timeout=60)
    try:
        yield
    finally:
        ray.get([h.__ray_call__.remote(take_out) for h in handles], timeout=60)


def failed(check: Check) -> Check:
    assert check.outcome is Outcome.FAILED, check.measured
    return check


def test_a_stale_output_head_is_named(rounds: AllChecks) -> None:
    def forget(host):  # type: ignore[no-untyped-def]
        host.learner.policy.tied_names = dict

    def remember(host):  # type: ignore[no-untyped-def]
        del host.learner.policy.tied_names

    rounds.exam.load()
    rounds.exam.sync()
    with planted(backend(rounds).learners, forget, remember):
        numbers.take_update(rounds.exam)
        check = failed(numbers.weights_arrive(rounds.exam))
    assert HEAD in check.measured
    assert "a tied head must be sent" in check.cause
    assert numbers.weights_arrive(rounds.exam).outcome is Outcome.PASSED


def test_weights_that_arrive_and_are_not_computed_with_are_named(rounds: AllChecks) -> None:
    """Every checksum is right: only what the sampler computes tells."""

    def leave_out(sampler):  # type: ignore[no-untyped-def]
        def change(worker):  # type: ignore[no-untyped-def]
            model = worker.get_model()
            load = model.load_weights
            model.load_weights = lambda weights: load(
                (name, tensor) for name, tensor in weights if "layers.2.mlp.down_proj" not in name
            )

        sampler.llm.collective_rpc(change)

    def put_back(sampler):  # type: ignore[no-untyped-def]
        def change(worker):  # type: ignore[no-untyped-def]
            del worker.get_model().load_weights

        sampler.llm.collective_rpc(change)

    rounds.exam.load()
    rounds.exam.sync()
    assert numbers.logprobs(rounds.exam).outcome is Outcome.PASSED
    numbers.take_update(rounds.exam)
    with planted(backend(rounds).samplers, leave_out, put_back):
        assert numbers.weights_arrive(rounds.exam).outcome is Outcome.PASSED
    numbers.logprobs(rounds.exam)
    check = failed(after_update.update_used(rounds.exam))
    assert "although every tensor arrived" in check.cause
    # And the same update, loaded whole:
    rounds.exam.groups, rounds.exam.gap = rounds.exam.earlier, rounds.exam.earlier_gap
    rounds.exam.sync()
    assert numbers.logprobs(rounds.exam).outcome is Outcome.PASSED
    check = after_update.update_used(rounds.exam)
    assert check.outcome is Outcome.PASSED, check.measured


def test_one_frozen_layer_is_named(rounds: AllChecks) -> None:
    def freeze(host):  # type: ignore[no-untyped-def]
        layer = host.learner.policy.hf.model.layers[2]
        host.planted = [p.register_hook(lambda grad: grad * 0) for p in layer.parameters()]

    def thaw(host):  # type: ignore[no-untyped-def]
        for hook in host.planted:
            hook.remove()

    rounds.exam.load()
    rounds.exam.sync()
    rounds.exam.sample_groups()
    with planted(backend(rounds).learners, freeze, thaw):
        check = failed(numbers.parameters_move(rounds.exam, numbers.take_update(rounds.exam)))
    assert "in model.layers.2: 9" in check.measured


def test_a_loss_divided_by_each_micro_batchs_own_count_is_named(rounds: AllChecks) -> None:
    def divide(host):  # type: ignore[no-untyped-def]
        import dataclasses

        accumulate = host.learner._accumulate

        def wrong(mb, *rest):  # type: ignore[no-untyped-def]
            return accumulate(dataclasses.replace(mb, loss_weight_T=mb.loss_mask_T / mb.loss_mask_T.sum()), *rest)

        host.learner._accumulate = wrong

    def mend(host):  # type: ignore[no-untyped-def]
        del host.learner._accumulate

    rounds.exam.load()
    with planted(backend(rounds).learners, divide, mend):
        check = failed(numbers.loss(rounds.exam, numbers.take_update(rounds.exam)))
    assert "divided by the wrong count" in check.cause


def with_other_requests(change: Callable) -> Callable:  # type: ignore[type-arg]
    """A plant: change(prompt, sampling) spoils each request on its way into vLLM's engine."""

    def plant(sampler):  # type: ignore[no-untyped-def]
        add = sampler.engine.add_request

        def changed(request_id, prompt, sampling, **others):  # type: ignore[no-untyped-def]
            change(prompt, sampling)
            return add(request_id, prompt, sampling, **others)

        sampler.engine.add_request = changed

    return plant


def as_asked() -> Callable:  # type: ignore[type-arg]
    def take_out(sampler):  # type: ignore[no-untyped-def]
        del sampler.engine.add_request

    return take_out


def test_a_wrong_stop_token_at_the_sampler_is_named(rounds: AllChecks) -> None:
    def other_stop(prompt, sampling):  # type: ignore[no-untyped-def]
        sampling.stop_token_ids = [7]
        sampling._all_stop_token_ids = {7}

    with planted(backend(rounds).samplers, with_other_requests(other_stop), as_asked()):
        check = failed(texts.stops(rounds.exam))
    assert "wrong stop_token_ids" in check.cause
    assert texts.stops(rounds.exam).outcome is Outcome.PASSED


def test_identical_samples_in_a_group_are_named(rounds: AllChecks) -> None:
    def one_seed(prompt, sampling):  # type: ignore[no-untyped-def]
        sampling.seed = 1

    with planted(backend(rounds).samplers, with_other_requests(one_seed), as_asked()):
        rounds.exam.sample_groups()
    check = failed(texts.samples_differ(rounds.exam))
    assert "one seed" in check.cause


def test_a_template_that_reaches_the_sampler_otherwise_than_the_learner_shows_in_the_logprobs(
    rounds: AllChecks,
) -> None:
    def one_token_more(prompt, sampling):  # type: ignore[no-untyped-def]
        prompt["prompt_token_ids"] = [*prompt["prompt_token_ids"], 9]

    rounds.exam.load()
    rounds.exam.sync()
    with planted(backend(rounds).samplers, with_other_requests(one_token_more), as_asked()):
        check = failed(numbers.logprobs(rounds.exam))
    assert check.table[0] == ("position", "tokens", "mean", "max")


def test_raw_instead_of_processed_logprobs_are_named(rounds: AllChecks) -> None:
    def set_mode(mode: str) -> Callable:  # type: ignore[type-arg]
        def plant(sampler):  # type: ignore[no-untyped-def]
            def change(worker):  # type: ignore[no-untyped-def]
                inside = worker.model_runner.sampler
                inside.logprobs_mode = inside.topk_topp_sampler.logprobs_mode = mode

            sampler.llm.collective_rpc(change)

        return plant

    rounds.exam.load()
    rounds.exam.sync()
    with planted(backend(rounds).samplers, set_mode("raw_logprobs"), set_mode("processed_logprobs")):
        check = failed(numbers.logprobs(rounds.exam))
    assert "raw logprobs" in check.cause
    assert numbers.logprobs(rounds.exam).outcome is Outcome.PASSED


def test_a_version_mismatch_between_the_nodes_is_named(rounds: AllChecks) -> None:
    one, other = rounds.reports
    odd = dataclasses.replace(other, versions=other.versions | {"torch": "2.12.0"})
    check = failed(nodes.same_versions([one, odd], versions()))
    assert "torch differ" in check.measured


def test_a_checkpoint_of_the_run_with_a_flipped_byte_is_named(rounds: AllChecks) -> None:
    cfg: RunConfig = rounds.cfg
    path = durability.save(rounds.exam).path
    target = cfg.run_dir / "checkpoints" / "grpo"
    target.mkdir(parents=True)
    path.rename(target / path.name)
    whole = durability.checkpoints_whole(cfg)
    assert whole.outcome is Outcome.PASSED, whole.measured
    file = next(Path(target).rglob("*.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    check = failed(durability.checkpoints_whole(cfg))
    assert file.name in check.measured


def test_a_load_that_puts_nothing_back_is_named(rounds: AllChecks) -> None:
    def forget(host):  # type: ignore[no-untyped-def]
        host.learner.restore = lambda folder: None

    def remember(host):  # type: ignore[no-untyped-def]
        del host.learner.restore

    rounds.exam.load()
    rounds.exam.sync()
    rounds.exam.sample_groups()
    numbers.take_update(rounds.exam)
    saved = durability.save(rounds.exam)
    with planted(backend(rounds).learners, forget, remember):
        check = failed(durability.loads_equal(rounds.exam, saved))
    assert "not those that were saved" in check.measured
    again = durability.loads_equal(rounds.exam, saved)
    assert again.outcome is Outcome.PASSED, again.measured


def test_a_sound_reward_scores_its_golden_cases_inside_the_real_workers(rounds: AllChecks) -> None:
    part = named(rounds.cfg.rewards)["accuracy"]
    check = reward_checks.reward(rounds.exam, "accuracy", part)
    assert "5 golden cases score as they must" in check.measured
