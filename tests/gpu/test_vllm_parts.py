"""Weight sync with vLLM's own code, without a GPU: its ranks, its one ipc buffer, its streams, its workers' start.

CUDA is stood in for by tensors in this process's memory. No Ray starts and no model is loaded.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import vllm.platforms
from torch import Tensor
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer import ipc_engine, nccl_common, packed_tensor
from vllm.utils import torch_utils

from rl.backend import SampleParams
from rl.config import RunConfig
from rl.types import SampleRequest
from rl.workers.cluster.ray_calls import free_port
from rl.workers.sampler.sampler import Sampler
from rl.workers.sync.buckets import PolicySource, SamplerConnection, Tally
from rl.workers.sync.vllm_transfer import CountingIPCEngine, CountingNCCLEngine, TrainerEngine, same_stream
from tests.unit import pretend_ray

GPU = SimpleNamespace(uuid="the one card")


@pytest.fixture
def one_card(monkeypatch) -> None:
    """What vLLM asks CUDA for, answered without it."""
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: GPU)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)


def client_of(samplers: list[object], monkeypatch, *, late: bool, **settings: int):
    """Our client of samplers in this process. late: each call is made only when somebody waits for it."""
    with pretend_ray.pretended(monkeypatch.setitem):
        from rl.workers.cluster.actors import RaySyncClient

        handles = [pretend_ray.Handle(sampler) for sampler in samplers]
        for handle in handles:
            handle.late = late
        names = [f"sampler {i}" for i in range(len(samplers))]
        return RaySyncClient(handles, names, 5.0, pass_over_dead=False, **settings)


def config_of(rank: int, gpus_each: int) -> SimpleNamespace:
    """vLLM's configuration, as far as weight transfer reads it, of one tensor-parallel rank of an engine of ours."""
    return SimpleNamespace(
        parallel_config=SimpleNamespace(data_parallel_index=0, world_size=gpus_each, rank=rank), model_config=None
    )


class Engines:
    """A sampler: one of our weight-transfer engines for each of its GPUs, without a model."""

    def __init__(self, kind: type, gpus: int = 1) -> None:
        self.loaded: list[tuple[str, Tensor]] = []
        model = SimpleNamespace(load_weights=self._load)
        self.engines = [kind(None, config_of(rank, gpus), torch.device("cuda", 0), model) for rank in range(gpus)]

    def _load(self, weights) -> None:
        self.loaded += weights

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        for engine in self.engines:
            engine.init_transfer_engine(engine.parse_init_info(init_info))

    def start_weight_update(self) -> None:
        for engine in self.engines:
            engine.tally = Tally()

    def update_weights(self, update_info: dict[str, object]) -> None:
        for engine in self.engines:
            engine.update_weights(update_info)

    def finish_weight_update(self, version: str) -> None: ...


def source_of(tensors: dict[str, Tensor]) -> PolicySource:
    return PolicySource(
        [(name, tuple(t.shape)) for name, t in tensors.items()], lambda: iter(tensors.items()), torch.bfloat16, {}
    )


# ------------------------------------------------------------------------------------------------ ranks


class Communicator:
    """Stands in for vLLM's PyNcclCommunicator."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.open = rank, world_size, True

    def destroy(self) -> None:
        self.open = False


@pytest.fixture
def communicators(monkeypatch, one_card) -> list[Communicator]:
    """All communicators that vLLM's code opens, in order."""
    found: list[Communicator] = []

    def opened(address: str, port: int, rank: int, world_size: int, device: int) -> Communicator:
        found.append(Communicator(rank, world_size))
        return found[-1]

    monkeypatch.setattr(nccl_common, "stateless_init_process_group", opened)
    return found


@pytest.mark.parametrize(("count", "gpus"), [(1, 1), (2, 1), (8, 1), (3, 4), (1, 4)])
def test_all_gpus_of_all_samplers_and_the_learner_have_ranks_of_their_own(communicators, monkeypatch, count, gpus):
    samplers = [Engines(CountingNCCLEngine, gpus) for _ in range(count)]
    client = client_of(samplers, monkeypatch, late=False, gpus_each=gpus)
    connection = SamplerConnection("nccl", client, "127.0.0.1", 1, count * gpus, 1 << 20)
    TrainerEngine(connection, 0, source_of({"w": torch.zeros(2)}))
    assert sorted(c.rank for c in communicators) == list(range(1 + count * gpus))
    assert {c.world_size for c in communicators} == {1 + count * gpus}


def test_a_second_connection_closes_the_communicators_of_the_first(communicators, monkeypatch):
    client = client_of([Engines(CountingNCCLEngine, 2)], monkeypatch, late=False, gpus_each=2)
    connection = SamplerConnection("nccl", client, "127.0.0.1", 1, 2, 1 << 20)
    source = source_of({"w": torch.zeros(2)})
    TrainerEngine(connection, 0, source).close()
    TrainerEngine(connection, 0, source)
    assert [c.open for c in communicators] == [False] * 3 + [True] * 3


def test_vllm_cannot_open_a_group_at_the_port_of_one_that_is_still_open():
    # Why every connection has a port of its own.
    port = free_port()
    first = StatelessProcessGroup.create("127.0.0.1", port, 0, 1)
    with pytest.raises(OSError, match="in use"):
        StatelessProcessGroup.create("127.0.0.1", port, 0, 1)
    assert first.world_size == 1


# ------------------------------------------------------------------------------------------------ ipc


@pytest.fixture
def shared_memory(monkeypatch, one_card) -> None:
    """CUDA's shared buffers as tensors of this process; a handle is a number."""
    buffers: dict[int, Tensor] = {}
    numbers = itertools.count()

    def export(buffer: Tensor) -> tuple[None, tuple[int, ...]]:
        number = next(numbers)
        buffers[number] = buffer
        return None, (number, 0, 0, 0, 0, 0, 0)  # the seventh is the device

    class HostTorch:
        """torch, with empty tensors in this process's memory."""

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

        def empty(self, size: int, dtype: torch.dtype, device: str) -> Tensor:
            return torch.empty(size, dtype=dtype)

    monkeypatch.setattr(packed_tensor, "torch", HostTorch())
    monkeypatch.setattr(packed_tensor, "reduce_tensor", export)
    monkeypatch.setattr(ipc_engine.PackedBufferImporter, "rebuild", lambda self, args: buffers[args[0]])


@pytest.mark.parametrize("bucket_bytes", [64, 1000, 1 << 20])
@pytest.mark.parametrize("count", [1, 2])
def test_ipc_brings_every_tensor_undamaged_however_late_the_samplers_read(
    shared_memory, monkeypatch, bucket_bytes, count
):
    # The smallest bucket is smaller than the largest tensor, 800 bytes.
    torch.manual_seed(0)
    tensors = {f"w{i}": torch.randn(size) for i, size in enumerate((30, 400, 30, 5, 200, 30, 1, 30))}
    samplers = [Engines(CountingIPCEngine) for _ in range(count)]
    client = client_of(samplers, monkeypatch, late=True, under_way=0)
    source = source_of(tensors)
    TrainerEngine(SamplerConnection("ipc", client, "", 0, count, bucket_bytes), 0, source).send(source)
    for sampler in samplers:
        assert [name for name, _ in sampler.loaded] == list(tensors)
        assert all(torch.equal(found, tensors[name].bfloat16()) for name, found in sampler.loaded)
        (engine,) = sampler.engines
        assert (engine.tally.checksum, engine.tally.num_tensors) == (source.tally.checksum, 8)


# ------------------------------------------------------------------------------------------------ streams


class Stream:
    """Stands in for torch.cuda.Stream, and remembers for whom it waited."""

    def __init__(self) -> None:
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


@pytest.fixture
def cuda(monkeypatch) -> Iterator[SimpleNamespace]:
    """A CUDA that has streams and nothing else. cuda.now: the current one."""
    state = SimpleNamespace(now=Stream())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: state.now)
    monkeypatch.setattr(torch_utils, "prev_set_stream", lambda stream: setattr(state, "now", stream))
    platform = SimpleNamespace(is_rocm=lambda: False, is_cuda=lambda: True)
    monkeypatch.setattr(vllm.platforms, "current_platform", platform)
    monkeypatch.setattr(torch_utils._current_stream_tls, "value", None, raising=False)
    return state


def test_vllm_replaces_the_stream_and_the_learner_gets_its_own_back(cuda):
    before = cuda.now
    with same_stream():
        inside = torch_utils.current_stream()
        assert cuda.now is inside is not before
    assert cuda.now is before
    assert before.waited_for == [inside]
    # vLLM goes by what it last set, so from now on it uses this stream too.
    assert torch_utils.current_stream() is before


def test_the_stream_comes_back_after_an_error_too(cuda):
    before = cuda.now

    @same_stream()
    def fails() -> None:
        torch_utils.current_stream()
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fails()
    assert cuda.now is before


@pytest.mark.parametrize("at", ["opens", "sends"])
def test_an_engine_that_changes_the_stream_does_not_change_the_learners(cuda, monkeypatch, at):
    class Engine:
        source = None

        def send_weights(self) -> None:
            if at == "sends":
                torch_utils.current_stream()

    def init(info, client, source) -> Engine:
        if at == "opens":
            torch_utils.current_stream()
        return Engine()

    monkeypatch.setattr("rl.workers.sync.vllm_transfer.WeightTransferTrainerFactory.trainer_init", init)
    before = cuda.now
    source = source_of({"w": torch.zeros(2)})
    TrainerEngine(SamplerConnection("nccl", None, "", 0, 1, 1), 0, source).send(source)
    assert cuda.now is before
    assert len(before.waited_for) == 1


# ------------------------------------------------------------------------------------------------ workers


def known_in_worker(extension: str, names: object) -> None:
    """Runs in a new process, as far as a vLLM worker gets before it makes its weight-transfer engine."""
    from vllm import ir
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.utils.import_utils import resolve_obj_by_qualname

    registry = WeightTransferEngineFactory._registry
    before = set(registry)
    resolve_obj_by_qualname(extension)
    engines = {name: load().__name__ for name, load in registry.items() if name not in before}
    names.put((engines, sorted(ir.ops.fused_add_rms_norm.impls)))


def test_a_spawned_worker_knows_our_engines_once_it_has_looked_up_the_extension_class():
    # Not at the top: the new process imports this file, and would know the engines before it looks up anything.
    from rl.workers.sampler.vllm_process import EXTENSION

    context = multiprocessing.get_context("spawn")
    names = context.Queue()
    process = context.Process(target=known_in_worker, args=(EXTENSION, names))
    process.start()
    engines, norms = names.get(timeout=120)
    process.join(60)
    assert engines == {
        "aha_bucket": "BucketEngine", "aha_nccl": "CountingNCCLEngine", "aha_ipc": "CountingIPCEngine"
    }  # fmt: skip
    assert "aha" in norms


@pytest.mark.parametrize(("gpus", "executor"), [(1, None), (4, "mp")])
def test_the_sampler_names_the_extension_and_the_executor_to_vllm(monkeypatch, gpus, executor):
    from rl.workers.sampler.vllm_process import EXTENSION

    given: dict[str, object] = {}

    class Engine:
        llm_engine = None

        def __init__(self, **arguments: object) -> None:
            given.update(arguments)

        def get_tokenizer(self) -> None: ...

    monkeypatch.setattr("vllm.LLM", Engine)
    cfg = RunConfig()
    cfg = replace(cfg, sampler=replace(cfg.sampler, tensor_parallel=gpus), model=replace(cfg.model, dtype="bfloat16"))
    Sampler(cfg, 0, "model", 64, "gpu", "nccl")
    assert given["distributed_executor_backend"] == executor
    assert given["worker_extension_cls"] == EXTENSION
    assert given["weight_transfer_config"] == {"backend": "aha_nccl"}
    assert given["tensor_parallel_size"] == gpus


@pytest.mark.parametrize(("seeded", "seeds"), [(True, [11, 22]), (False, [None, None])])
def test_samples_have_seeds_of_their_own_unless_the_recipe_says_no(seeded, seeds):
    asked = []

    class WithEngine(Sampler):
        def __init__(self) -> None:
            cfg = RunConfig()
            self.cfg = replace(cfg, sampler=replace(cfg.sampler, seeded=seeded))
            self.index, self.version, self.groups, self.asleep, self.adapter = 0, 0, {}, [], None
            self.engine = SimpleNamespace(add_request=lambda name, prompt, params, **_: asked.append(params.seed))

    params = SampleParams(temperature=1.0, top_p=1.0, max_new_tokens=4, stop=(), stop_token_ids=(0,))
    WithEngine().submit([SampleRequest(0, [1, 2], [11, 22])], params)
    assert asked == seeds
