"""The sampler: a vLLM engine that turns prompts into rollouts.

vLLM is imported inside functions, because the driver imports this file too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from rl.backend import SampleParams, SamplerReport
from rl.config import RunConfig
from rl.types import AhaError, Rollout, SampleRequest, TopLogprobs
from rl.workers.sampler.turns import Place, Trajectories

SLEEPERS = ["weights", "kv_cache"]
"""vLLM's names of what sleeps. In this order they are woken: weights alone are enough for a sync."""


@dataclass(slots=True)
class _Group:
    """A group that is being sampled. missing: samples that are not finished."""

    request: SampleRequest
    params: SampleParams
    policy_version: int
    rollouts_G: list[Rollout | None]
    missing: int


class Sampler:
    """One vLLM engine in this process. It starts with dummy weights and refuses to sample before the first sync.

    index: of this sampler. transfer: bucket, nccl or ipc. version: of the weights, -1 for the dummy ones. asleep: what
    it has given back of its device. sleeps, wakes: how often it fell asleep, and how often a part was woken. updating:
    new weights have begun to arrive and are not adopted yet. trajectories: those that environments answer.
    """

    updating = False
    trajectories: Trajectories | None = None

    def __init__(
        self, cfg: RunConfig, index: int, model_path: str, context_length: int, device: str, transfer: str
    ) -> None:
        self.cfg, self.index = cfg, index
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from vllm import LLM

        from rl.workers.sampler.adapters import adapter_options, adapter_request
        from rl.workers.sampler.precision import engine_options, widen_head
        from rl.workers.sampler.vllm_process import EXTENSION
        from rl.workers.sync.vllm_transfer import sampler_backend

        on_gpu = device == "gpu"
        self.llm = LLM(
            model=model_path,
            dtype=cfg.model.dtype,
            load_format="dummy",
            seed=cfg.seed,
            max_model_len=context_length,
            max_num_seqs=cfg.sampler.max_sequences,
            enforce_eager=cfg.sampler.enforce_eager,
            enable_prefix_caching=cfg.sampler.prefix_caching,
            tensor_parallel_size=cfg.sampler.tensor_parallel,
            # Without a name vLLM would start its workers through Ray, which reserves one GPU in a bundle, not several.
            distributed_executor_backend="mp" if cfg.sampler.tensor_parallel > 1 else None,
            worker_extension_cls=EXTENSION,
            logprobs_mode="processed_logprobs",  # after temperature and top-p: of the distribution that is sampled from
            weight_transfer_config={"backend": sampler_backend(transfer)},
            # For a prompt that is prefilled in chunks vLLM rewinds the sample's random generator; on a CPU it cannot.
            enable_chunked_prefill=on_gpu,
            max_num_batched_tokens=max(8192, context_length),
            disable_log_stats=True,
            **({"gpu_memory_utilization": cfg.sampler.gpu_memory_share} if on_gpu else {}),
            enable_sleep_mode=on_gpu and cfg.cluster.colocated == "true",
            **engine_options(cfg.model.dtype, on_gpu=on_gpu),
            **(adapters := adapter_options(cfg, model_path)),
        )
        self.adapter = adapter_request() if adapters else None
        if not on_gpu and cfg.model.dtype != "float32":
            self.llm.collective_rpc(widen_head)
        self.engine = self.llm.llm_engine
        self.tokenizer = self.llm.get_tokenizer()
        self.version = -1
        self.groups: dict[int, _Group] = {}
        self.decode_steps = 0
        self.sync_fault = ""
        self.asleep: list[str] = []
        self.sleeps = self.wakes = 0

    # -------------------------------------------------------------------------------------------- weights in

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        self.sync_fault = ""
        with self._remembering_faults():
            self.llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self.sync_fault, self.updating = "", True
        with self._remembering_faults():
            self.llm.start_weight_update()

    def update_weights(self, update_info: dict[str, object]) -> None:
        with self._remembering_faults():
            self.llm.update_weights({"update_info": update_info})

    def takes_adapters(self) -> bool:
        """Whether it runs LoRA adapters apart from the base; else it wants them merged."""
        return self.adapter is not None

    def load_adapter(self, buckets: list[dict[str, object]], scale: float, alone: bool) -> None:
        """Take the place of the last adapter; the base must be there. rl/workers/sampler/adapters.py"""
        from rl.workers.sampler.adapters import load_adapter

        self.updating = True
        with self._remembering_faults():
            self.llm.collective_rpc(load_adapter, args=(buckets, scale, alone))

    def finish_weight_update(self, version: str) -> None:
        with self._remembering_faults():
            self.llm.finish_weight_update(version)

    @contextmanager
    def _remembering_faults(self) -> Iterator[None]:
        """Keep the first error of a weight sync for fault_of_sync: a learner that waits in NCCL cannot tell of it."""
        try:
            yield
        except Exception as error:
            self.sync_fault = self.sync_fault or f"{type(error).__name__}: {error}"
            raise

    def fault_of_sync(self) -> str:
        """What went wrong in this sampler since the last weight sync began; "" when nothing did."""
        return self.sync_fault

    def adopt_version(self, version: int, running: str = "refuse") -> tuple[int, int]:
        """Mark rollouts with this version from now on. Call it after an update.

        running: what becomes of requests that are half done. refuse: raise AhaError. recompute: they go on with the new
        weights, and their keys and values are computed again. keep: they go on with the old keys and values.
        Returns (checksum, number of tensors) of what arrived.
        """
        from rl.workers.sync.vllm_transfer import read_tally

        tallies = self.llm.collective_rpc(read_tally)
        if len(set(tallies)) != 1:
            raise AhaError(f"sampler {self.index}: its tensor-parallel ranks received different weights: {tallies}")
        self._forget_old_weights(version, running)
        self.llm.llm_engine.set_weight_version(str(version))  # an adapter's update does not
        self.version, self.updating = version, False
        return tallies[0]

    def _forget_old_weights(self, version: int, running: str) -> None:
        """Cached keys and values belong to the old weights. Prompts that come later do not find them in any case: each
        version has a cache_salt of its own.
        """
        if running == "keep" and self.groups:
            return
        # Without the argument vLLM does nothing while a request runs, and returns False.
        if not self.llm.reset_prefix_cache(**({"reset_running_requests": True} if running == "recompute" else {})):
            raise AhaError(
                f"sampler {self.index}: weights version {version} arrived while it still had {len(self.groups)} groups "
                "to sample, so they would mix two versions; sync the weights only when all rollouts are back"
            )

    def forget_prompts(self) -> None:
        """Empty the cache of prompts, so that what is sampled next does not depend on what was sampled before."""
        self.llm.reset_prefix_cache()

    # -------------------------------------------------------------------------------------------- turns on a device

    def sleep(self) -> None:
        """Give the device's memory to the learner: the weights move to the host, the KV cache is forgotten.

        Raises AhaError while groups are being sampled, as vLLM would abort them.
        """
        if self.groups:
            raise AhaError(
                f"sampler {self.index}: told to sleep while it still had {len(self.groups)} groups to sample"
            )
        if self.asleep != SLEEPERS:
            self.llm.sleep(level=1)  # level 2 would drop the weights, and a rollout without a sync would be of nothing
            self.asleep = list(SLEEPERS)
            self.sleeps += 1

    def wake_up(self, part: str) -> None:
        """Take the memory of the weights or of the KV cache again. Updates need the weights awake, sampling both."""
        if part in self.asleep:
            self.llm.wake_up([part])
            self.asleep.remove(part)
            self.wakes += 1

    # -------------------------------------------------------------------------------------------- sampling

    def submit(self, requests: list[SampleRequest], params: SampleParams) -> None:
        """Give groups to the engine. Each sample is a request of its own with its own seed."""
        if self.version < 0:
            raise AhaError(f"sampler {self.index}: asked to sample before any weights arrived")
        if self.asleep:
            raise AhaError(f"sampler {self.index}: asked to sample while its {' and '.join(self.asleep)} are asleep")
        for request in requests:
            count = len(request.seeds_G)
            self.groups[request.group] = _Group(request, params, self.version, [None] * count, missing=count)
            for i, seed in enumerate(request.seeds_G):
                stop = params.stop
                if request.environment is not None:
                    self.trajectories = self.trajectories or Trajectories(self.cfg.scoring, self.tokenizer, self._add)
                    stop = self.trajectories.begin((request.group, i), request, params)
                self._add(f"{request.group}.{i}", request.prompt_token_ids, params, seed, params.max_new_tokens, stop)

    def _add(
        self, name: str, token_ids: list[int], params: SampleParams, seed: int, most: int, stop: tuple[str, ...]
    ) -> None:
        """Give the engine one request. most: of new tokens."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=most,
            seed=seed if self.cfg.sampler.seeded else None,
            logprobs=params.top_logprobs,
            stop=list(stop) or None,
            stop_token_ids=list(params.stop_token_ids),
            allowed_token_ids=list(params.only) or None,
            ignore_eos=True,  # every end token is in stop_token_ids; the model's own defaults must not matter
            detokenize=bool(stop),
            skip_special_tokens=False,  # a stop text may be a special token, so it must be in the text
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": token_ids, "cache_salt": f"{self.version}:{params.salt}"}
        self.engine.add_request(name, prompt, sampling, lora_request=self.adapter)

    def sample(
        self,
        requests: list[SampleRequest],
        params: SampleParams,
        more: Sequence[tuple[list[SampleRequest], SampleParams]] = (),
        max_seconds: float = 0.5,
    ) -> SamplerReport:
        """Submit groups and poll, in one call, so that its caller, who waits, gets the errors of both.

        more: groups that are sampled in other ways.
        """
        for some, how in [(requests, params), *more]:
            if some:
                self.submit(some, how)
        return self.poll(max_seconds)

    def poll(self, max_seconds: float = 0.5) -> SamplerReport:
        """Decode until a group has finished, or for about max_seconds. Returns the finished groups.

        Between the parts of a weight update it decodes nothing: a token from half the new weights would go unnoticed.
        """
        finished: dict[int, list[Rollout]] = {}
        start = time.perf_counter()
        while not self.updating and (self.engine.has_unfinished_requests() or self._waiting):
            if self.engine.has_unfinished_requests():
                outputs = self.engine.step()
                self.decode_steps += 1
                for output in outputs:
                    if output.finished:
                        self._collect(output, finished)
            if self.trajectories is not None:
                idle = not self.engine.has_unfinished_requests()  # else nothing waits for an environment
                for place, rollout in self.trajectories.answered(0.05 if idle else 0):
                    self._file(place, rollout, finished)
            elapsed = time.perf_counter() - start
            # At least 0.1 s in every call: a message for every single group would cost more time than it saves.
            if elapsed > max_seconds or (finished and elapsed > 0.1):
                break
        return SamplerReport(finished, len(self.groups), self.decode_steps, self.version)

    @property
    def _waiting(self) -> int:
        """Samples that wait for their environment."""
        return self.trajectories.waiting if self.trajectories is not None else 0

    def _collect(self, output, finished: dict[int, list[Rollout]]) -> None:  # type: ignore[no-untyped-def]
        # vLLM appends a suffix of its own, "-...", to the request's id, "group.sample" or "group.sample.turn".
        number, sample = (int(x) for x in output.request_id.split("-")[0].split(".")[:2])
        group = self.groups[number]
        completion = output.outputs[0]
        token_ids = np.asarray(completion.token_ids, dtype=np.int32)
        # A group may have waited inside vLLM while new weights arrived, so its first token's version is vLLM's to say.
        spans = [(s.start, int(s.version)) for s in completion.weight_versions or ()] or [(0, group.policy_version)]
        logprobs = [step[token].logprob for step, token in zip(completion.logprobs, completion.token_ids, strict=True)]
        rollout = Rollout(
            token_ids_T=token_ids,
            logprobs_T=np.asarray(logprobs, dtype=np.float32),
            text=self._text(token_ids, group.params.stop_token_ids),
            finish_reason=str(completion.finish_reason),
            temperature=group.params.temperature,
            policy_version=spans[0][1],
            seed=group.request.seeds_G[sample],
            top=_top(completion.logprobs, top) if (top := group.params.top_logprobs) else None,
            later_versions=tuple(spans[1:]),
        )
        if self.trajectories is not None and self.trajectories.has((number, sample)):
            self.trajectories.turn_ended((number, sample), rollout)
        else:
            self._file((number, sample), rollout, finished)

    def _file(self, place: Place, rollout: Rollout, finished: dict[int, list[Rollout]]) -> None:
        """Put a finished sample into its group, and the group among the finished ones once it is whole."""
        number, sample = place
        group = self.groups[number]
        group.rollouts_G[sample] = rollout
        group.missing -= 1
        if not group.missing:
            finished[number] = [r for r in group.rollouts_G if r is not None]
            del self.groups[number]

    def _text(self, token_ids: np.ndarray, stop_token_ids: tuple[int, ...]) -> str:
        """The completion as text, without the end token but with other special tokens (think tags)."""
        ended = len(token_ids) and int(token_ids[-1]) in stop_token_ids
        return str(self.tokenizer.decode(token_ids[:-1] if ended else token_ids, skip_special_tokens=False))

    def ping(self) -> int:
        """The sampler's process id."""
        return os.getpid()


def _top(steps_T, count: int) -> TopLogprobs:  # type: ignore[no-untyped-def]
    """The `count` likeliest tokens at each position, from vLLM's list of {token: Logprob}.

    vLLM's entry also has the sampled token where that is not among the likeliest; it is left out here.
    """
    best_T = [sorted(step.items(), key=lambda item: -item[1].logprob)[:count] for step in steps_T]
    ids = np.array([[token for token, _ in best] for best in best_T], np.int32)
    logprobs = np.array([[found.logprob for _, found in best] for best in best_T], np.float32)
    return TopLogprobs(ids.reshape(len(best_T), -1), logprobs.reshape(len(best_T), -1))
