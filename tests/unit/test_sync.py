"""Weight sync without vLLM: the checksum of both ends, buckets, and the learner's calls of several samplers."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rl.workers.learner.weights_out import WeightReader
from rl.workers.sync import buckets
from rl.workers.sync.buckets import PolicySource, SamplerConnection, Tally, pack_buckets, tensor_checksum
from tests.unit import pretend_ray

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.uint8, torch.int64)


def plain_checksum(data: bytes) -> int:
    """tensor_checksum as its docstring defines it, in Python's own integers."""
    data += bytes(-len(data) % 8)
    return sum(word * (2 * i + 1) for i, (word,) in enumerate(struct.iter_unpack("<Q", data))) % (1 << 64)


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def some(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor of random bytes."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.frombuffer(bytearray(random.Random(size).randbytes(size)), dtype=dtype).view(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3,), (8,), (1001,), (17, 33)])
def test_the_checksum_is_the_sum_of_the_weighted_words_in_any_dtype_and_of_any_length(dtype, shape):
    tensor = some(dtype, *shape)
    assert tensor_checksum(tensor) == plain_checksum(bytes_of(tensor))


def test_the_checksum_depends_on_the_bytes_alone_not_on_how_they_lie_in_memory():
    whole = some(torch.bfloat16, 40, 30)
    assert tensor_checksum(whole.t()) == plain_checksum(bytes_of(whole.t()))
    for start in range(1, 5):  # a slice whose bytes begin anywhere
        part = whole.reshape(-1)[start:]
        assert tensor_checksum(part) == tensor_checksum(part.clone()) == plain_checksum(bytes_of(part))
    assert tensor_checksum(torch.nn.Parameter(whole)) == tensor_checksum(whole)


def test_the_checksum_is_the_same_however_many_words_are_summed_at_once(monkeypatch):
    # A GPU sums more words at once than a CPU.
    tensor = some(torch.float32, 999)
    found = set()
    for chunk in (1, 7, 64, 1 << 22):
        monkeypatch.setattr(buckets, "CHUNK", {"cpu": chunk})
        found.add(tensor_checksum(tensor))
    assert found == {plain_checksum(bytes_of(tensor))}


def test_the_checksum_finds_one_flipped_bit_and_exchanged_words():
    tensor = some(torch.uint8, 240)
    right = tensor_checksum(tensor)
    for at in range(240):
        damaged = tensor.clone()
        damaged[at] ^= 1 << at % 8
        assert tensor_checksum(damaged) != right
    words = tensor.view(torch.int64)
    assert tensor_checksum(torch.cat((words[1:], words[:1]))) != right


def test_the_checksum_of_no_bytes_is_zero():
    assert tensor_checksum(torch.empty(0)) == 0


# ------------------------------------------------------------------------------------------------ buckets


def source_of(tensors: dict[str, Tensor], dtype: torch.dtype = torch.bfloat16, **tied: str) -> PolicySource:
    shapes = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    return PolicySource(shapes, lambda: iter(tensors.items()), dtype, tied)


def test_buckets_carry_the_checksums_that_the_learner_took_of_its_tensors():
    tensors = {f"w{i}": torch.randn(9, i + 1) for i in range(6)}
    source = source_of(tensors, w2="head")
    sent = [
        (name, checksum)
        for bucket in pack_buckets(source, 64)
        for name, checksum in zip(bucket["names"], bucket["checksums"], strict=True)
    ]
    expected = {name: tensor_checksum(tensor.bfloat16()) for name, tensor in tensors.items()}
    assert dict(sent) == expected | {"head": expected["w2"]} == source.tally.by_name
    assert len(sent) == 7


def test_the_largest_tensor_is_measured_as_it_travels():
    assert source_of({"a": torch.randn(3, 5), "b": torch.randn(7, 2)}).largest_bytes == 15 * 2
    assert source_of({"a": torch.randn(3, 5)}, torch.float32).largest_bytes == 15 * 4


def test_a_tally_depends_on_names_and_bytes_and_not_on_order():
    one, two, other = Tally(), Tally(), Tally()
    a, b = torch.randn(5), torch.randn(6)
    one.add("a", a), one.add("b", b)
    two.add("b", b), two.add("a", a)
    other.add("a", b), other.add("b", a)
    assert one.checksum == two.checksum != other.checksum


# ------------------------------------------------------------------------------------------------ calls of samplers


class Listener:
    """A sampler that keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        self.heard.append(init_info)

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: object) -> None:
        self.heard.append(update_info)

    def finish_weight_update(self, version: str) -> None: ...


@pytest.fixture
def client(monkeypatch):
    """A function that makes a client of samplers which take a call only when somebody waits for it."""
    with pretend_ray.pretended(monkeypatch.setitem):
        from rl.workers.cluster.actors import RaySyncClient

        def make(count: int, **settings: int) -> RaySyncClient:
            handles = [pretend_ray.Handle(Listener()) for _ in range(count)]
            for handle in handles:
                handle.late = True
            return RaySyncClient(handles, [f"sampler {i}" for i in range(count)], 5.0, pass_over_dead=False, **settings)

        yield make


@pytest.mark.parametrize(("gpus_each", "offsets"), [(1, [1, 2, 3]), (4, [1, 5, 9])])
def test_each_sampler_is_told_the_rank_of_its_first_gpu(client, gpus_each, offsets):
    made = client(3, gpus_each=gpus_each)
    made.init_weight_transfer_engine({"rank_offset": 1, "world_size": 1 + 3 * gpus_each})
    heard = [handle.actor.heard[0] for handle in made.handles]
    assert [info["rank_offset"] for info in heard] == offsets
    assert {info["world_size"] for info in heard} == {1 + 3 * gpus_each}


def test_what_has_no_ranks_is_told_to_all_samplers_alike(client):
    made = client(2, gpus_each=4)
    made.init_weight_transfer_engine({"packed": True})
    assert [handle.actor.heard for handle in made.handles] == [[{"packed": True}]] * 2


@pytest.mark.parametrize("under_way", [0, 2])
def test_as_many_updates_are_under_way_as_the_transfer_allows(client, under_way):
    made = client(2, under_way=under_way)
    made.start_weight_update()
    for i in range(5):
        made.update_weights(i)
        done = max(0, i + 1 - under_way)
        assert [handle.actor.heard for handle in made.handles] == [list(range(done))] * 2
    made.finish_weight_update("1")
    assert [handle.actor.heard for handle in made.handles] == [list(range(5))] * 2


def test_a_learner_closes_its_old_connection_before_it_opens_another(monkeypatch):
    order = []

    class Sender:
        def __init__(self, connection: SamplerConnection, rank: int, source: object) -> None:
            order.append(("open", connection.port))
            self.port = connection.port

        def close(self) -> None:
            order.append(("close", self.port))

    class Learner(WeightReader):
        def __init__(self) -> None:
            self.sender, self.rank = None, 0

        def _gathered(self, parameters): ...

        def _source(self): ...

    monkeypatch.setattr("rl.workers.learner.weights_out.WeightSender", Sender)
    learner = Learner()
    for port in (1, 2):
        learner.connect_samplers(SamplerConnection("nccl", SimpleNamespace(), "127.0.0.1", port, 1, 1))
    assert order == [("open", 1), ("close", 1), ("open", 2)]
