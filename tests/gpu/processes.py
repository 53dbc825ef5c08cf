"""A check of two processes that share the card: weights through CUDA handles, with vLLM's own producer and consumer."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from rl.workers.sync.buckets import tensor_checksum
from tests.gpu.report import Figures, Skipped, require

FILE = "AHA_PACKED_TENSOR"
"""Names vLLM's file of that name where vLLM is not installed: it needs torch alone."""


def packed_tensor_file() -> Path:
    if named := os.environ.get(FILE):
        return Path(named)
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise Skipped(f"vLLM is not installed; {FILE} may name its distributed/weight_transfer/packed_tensor.py")
    return Path(spec.submodule_search_locations[0]) / "distributed" / "weight_transfer" / "packed_tensor.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("packed_tensor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def tensors() -> dict[str, Tensor]:
    """Weights of very different sizes; the largest is larger than a bucket."""
    torch.manual_seed(0)
    return {f"w{i}": torch.randn(size, dtype=torch.bfloat16) for i, size in enumerate((5, 3_000_000, 17, 400_000, 1))}


def receive(path: Path, chunks: object, answers: object) -> None:
    """The sampler's process: loads each chunk and answers with the checksums of what it got."""
    vllm = load(path)
    importer = vllm.PackedBufferImporter()
    try:
        while (chunk := chunks.get(timeout=60)) is not None:
            found = vllm.packed_ipc_consumer(**chunk, device_index=0, importer=importer)
            answers.put({name: tensor_checksum(tensor) for name, tensor in found})
        importer.close()
        answers.put({})
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")
        raise


def ipc(device: str) -> Figures:
    """Another process on this card reads every tensor from our buffer undamaged, when each chunk is waited for."""
    path = packed_tensor_file()
    vllm = load(path)
    if device == "cpu":
        raise Skipped("CUDA handles need a card; tests/gpu/test_vllm_parts.py does the same with stand-ins")
    sent = {name: tensor.cuda() for name, tensor in tensors().items()}
    largest = max(t.numel() * t.element_size() for t in sent.values())
    context = multiprocessing.get_context("spawn")
    chunks, answers = context.Queue(), context.Queue()
    process = context.Process(target=receive, args=(path, chunks, answers), daemon=True)
    process.start()
    found: dict[str, int] = {}
    count = 0
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    for chunk in vllm.packed_ipc_producer(iter(sent.items()), uuid, lambda item: item[1], largest):
        chunks.put({
            "ipc_handle": chunk.ipc_handle, "names": chunk.names, "shapes": chunk.shapes,
            "dtype_names": chunk.dtype_names, "tensor_sizes": chunk.tensor_sizes,
        })  # fmt: skip
        answer = answers.get(timeout=50)
        require(isinstance(answer, dict), str(answer))
        found |= answer
        count += 1
    chunks.put(None)
    answers.get(timeout=50)
    process.join(20)
    require(found == {name: tensor_checksum(t) for name, t in sent.items()}, "tensors arrived damaged")
    return {"chunks": count, "tensors": len(found)}
