"""A LoRA adapter travels apart from the base, which is sent once for each connection."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rl.config import LoraConfig, RunConfig
from rl.model.lora import adapter_scale, adapter_weights, base_weights, plain_weights
from rl.types import AhaError, BadInput
from rl.workers.sampler import adapters
from rl.workers.sync.buckets import MASK, AdapterSource, PolicySource, SamplerConnection, Tally
from rl.workers.sync.send import WeightSender
from tests.unit.test_lora import folder, moved, policy_of  # noqa: F401  a fixture

BASE = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.ones(3)}
ADAPTER = {"w.lora_A.weight": torch.full((1, 3), 2.0), "w.lora_B.weight": torch.full((2, 1), 3.0)}


class Samplers:
    """Writes down what arrives, and adds it up as a sampler's engine does."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.tally = Tally()

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        self.events.append("connected")

    def start_weight_update(self) -> None:
        self.tally = Tally()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._take(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...

    def load_adapter(self, buckets: list[dict[str, Any]], scale: float, *, alone: bool) -> None:
        if alone:
            self.tally = Tally()
        self.events.append(f"scale {scale:g}")
        for bucket in buckets:
            self._take(bucket)

    def _take(self, bucket: dict[str, Any]) -> None:
        at = 0
        for name, shape in zip(bucket["names"], bucket["shapes"], strict=True):
            end = at + 4 * int(torch.tensor(shape).prod())
            self.tally.add(name, torch.from_numpy(bucket["data"][at:end]).view(torch.float32).view(shape))
            at = end
        self.events.append((bucket["version"], *bucket["names"]))


def source(tensors: dict[str, Tensor]) -> PolicySource:
    return PolicySource(
        [(n, tuple(t.shape)) for n, t in tensors.items()], lambda: iter(tensors.items()), torch.float32, {}
    )


def adapter() -> AdapterSource:
    shapes = [(name, tuple(tensor.shape)) for name, tensor in ADAPTER.items()]
    return AdapterSource(shapes, lambda: iter(ADAPTER.items()), torch.float32, 0.5)


def connected(client: Samplers, rank: int = 0) -> WeightSender:
    return WeightSender(SamplerConnection("bucket", client, "", 0, 1, 1 << 20, adapters=True), rank, source(BASE))


def test_the_base_is_sent_once_and_after_that_the_adapter_alone():
    client = Samplers()
    sender = connected(client)
    first, second = sender.send(source(BASE), 0, adapter()), sender.send(source(BASE), 1, adapter())
    names = tuple(ADAPTER)
    assert client.events == ["connected", (0, "w", "v"), "scale 0.5", (0, *names), "scale 0.5", (1, *names)]
    assert (first.num_tensors, first.num_bytes, first.num_buckets) == (4, 36 + 20, 2)
    assert (second.num_tensors, second.num_bytes, second.num_buckets) == (2, 20, 1)


def test_what_samplers_add_up_is_what_the_learner_says_of_either_sync():
    client = Samplers()
    sender = connected(client)
    for version in (0, 1):
        report = sender.send(source(BASE), version, adapter())
        assert (report.checksum, report.num_tensors) == (client.tally.checksum, client.tally.num_tensors)
    assert sender.send(source(BASE), 2, adapter()).checksum <= MASK


def test_a_new_connection_gets_the_base_again():
    client = Samplers()
    for version in (0, 1):
        connected(client).send(source(BASE), version, adapter())
    assert [event[0] for event in client.events if event[1:] == ("w", "v")] == [0, 1]


def test_ranks_other_than_the_first_take_part_and_send_nothing():
    client = Samplers()
    taken = []

    def watched() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in ADAPTER.items():
            taken.append(name)
            yield name, tensor

    one = adapter()
    one.iterate = watched
    connected(client, rank=1).send(source(BASE), 0, one)
    assert client.events == []
    assert taken == list(ADAPTER)


def test_without_an_adapter_all_weights_are_sent_each_time():
    client = Samplers()
    sender = connected(client)
    for version in (0, 1):
        assert sender.send(source(BASE), version).num_tensors == 2
    assert client.events[1:] == [(0, "w", "v"), (1, "w", "v")]


# ------------------------------------------------------------------------------------------------ what is sent


def test_base_and_adapters_together_are_the_merged_weights(folder):  # noqa: F811
    hf = moved(policy_of(folder)).hf
    base = {weight.name: weight.merged() for weight in base_weights(hf)}
    parts = {weight.name: weight.merged() for weight in adapter_weights(hf)}
    assert adapter_scale(hf) == 4.0
    merged = {weight.name: weight for weight in plain_weights(hf)}
    assert base.keys() == merged.keys()
    assert len(parts) == 2 * sum(weight.adapters is not None for weight in merged.values())
    for name, weight in merged.items():
        layer = name.removesuffix("weight")
        update = 0.0
        if weight.adapters:
            update = 4.0 * parts[f"{layer}lora_B.weight"] @ parts[f"{layer}lora_A.weight"]
        torch.testing.assert_close(base[name] + update, weight.merged())


# ------------------------------------------------------------------------------------------------ what vLLM can run


def run_of(rank: int, way: str = "auto") -> RunConfig:
    cfg = RunConfig()
    cfg = dataclasses.replace(cfg, cluster=dataclasses.replace(cfg.cluster, lora_sync=way))
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, lora=LoraConfig(rank=rank)))


@pytest.fixture
def fault(monkeypatch) -> list[str]:
    """[why vLLM cannot run adapters]; empty: it can."""
    found: list[str] = []
    monkeypatch.setattr(adapters, "fault_of_adapters", lambda rank, path: "".join(found))
    return found


def test_room_is_made_for_the_next_rank_that_vllm_knows(fault):
    assert adapters.adapter_options(run_of(12), "m")["max_lora_rank"] == 16
    assert adapters.adapter_options(run_of(64), "m")["max_lora_rank"] == 64
    assert adapters.adapter_options(run_of(0), "m") == {}
    assert adapters.adapter_options(run_of(8, "merged"), "m") == {}


def test_where_vllm_cannot_weights_are_merged_unless_the_adapter_was_asked_for(fault):
    fault.append("vLLM runs no adapters on FooForCausalLM")
    assert adapters.adapter_options(run_of(8), "m") == {}
    with pytest.raises(
        BadInput, match="lora_sync=adapter: vLLM runs no adapters on FooForCausalLM; use auto or merged"
    ):
        adapters.adapter_options(run_of(8, "adapter"), "m")


def test_an_adapter_that_vllm_would_leave_out_is_refused_by_name():
    layers = {"l.qkv_proj": None, "l.o_proj": None}
    packed = {"l.qkv_proj": ["l.q_proj", "l.k_proj", "l.v_proj"]}
    adapters.refuse_unknown({"l.q_proj", "l.o_proj"}, layers, packed)
    with pytest.raises(AhaError, match=r"no adapter on l\.router and 1 others"):
        adapters.refuse_unknown({"l.q_proj", "l.router", "l.router2"}, layers, packed)
    with pytest.raises(AhaError, match=r"no adapter on l\.qkv_proj;"):
        adapters.refuse_unknown({"l.qkv_proj"}, layers, packed)
