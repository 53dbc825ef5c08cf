"""What Aha saves is read elsewhere with equal logits and tokens: by the last transformers 4, and by llama.cpp's converter to GGUF.

Both are installed by `bash tests/readers/install.sh`, which launch/test.sh runs before these tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.export.folder import Sampling, export_folder
from rl.model.disk_names import DiskNames
from rl.model.lora import plain_weights
from rl.model.writer import ModelWriter
from tests.readers.families import CHAT, FAMILIES, TEXTS, model_of, sentencepiece_source

ROOT = Path(__file__).parents[2]
READERS = ROOT / ".venv" / "readers"
SCRIPT = ROOT / "tests" / "readers" / "in_transformers4.py"
IDS = [3 + i * 7 % 300 for i in range(40)]  # more than the original context of those whose RoPE is scaled
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def installed(name: str) -> Path:
    """The folder of a reader. Without it the test is skipped; in CI, which installs it, it fails."""
    folder = READERS / name
    if not (folder / "installed.txt").is_file():
        missing = f"{name} is not installed: bash tests/readers/install.sh"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


def save(name: str, source: Path, folder: Path) -> torch.Tensor:
    """Write a model as the learner does. Returns its logits."""
    model = model_of(name)
    writer = ModelWriter(folder)
    weights = plain_weights(model)
    names = DiskNames(model, {weight.name: tuple(weight.base.shape) for weight in weights})
    for weight in weights:
        for part, tensor in names.split(weight.name, weight.merged()):
            writer.add(part, tensor)
    writer.close(model.config, str(source))
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([IDS])).logits
    return logits


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_source(tmp_path_factory.mktemp("hub") / "llama")


@pytest.fixture(scope="module")
def read(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[torch.Tensor, dict[str, Any]]]:
    """Family -> (its logits, what transformers 4 read). One process reads all, and an export of the first."""
    reader, home = installed("transformers4"), tmp_path_factory.mktemp("saved")
    wanted = {name: save(name, source, home / name) for name in FAMILIES}
    first = next(iter(FAMILIES))
    export_folder(home / first, home / "exported", ollama=True, sampling=Sampling())
    wanted["exported"] = wanted[first]
    asked = home / "asked.json"
    asked.write_text(json.dumps({"ids": IDS, "texts": TEXTS, "chat": CHAT}))
    folders = [str(home / name) for name in wanted]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(reader), str(asked), *folders],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: (logits, torch.load(home / name / "read.pt")) for name, logits in wanted.items()}


@pytest.mark.parametrize("name", [*FAMILIES, "exported"])
def test_transformers_4_reads_a_saved_model_with_its_logits(name: str, read: dict[str, Any]) -> None:
    logits, found = read[name]
    assert found["version"].startswith("4.")
    assert found["dtype"] == torch.float32
    torch.testing.assert_close(found["logits"], logits, **CLOSE)


def test_transformers_4_writes_the_tokens_and_the_chats_of_training(source: Path, read: dict[str, Any]) -> None:
    from rl.model.pretrained import load_tokenizer

    tokenizer = load_tokenizer(str(source))
    for name in ("llama", "exported"):
        assert read[name][1]["tokens"] == [tokenizer(text).input_ids for text in TEXTS]
        assert read[name][1]["chat"] == tokenizer.apply_chat_template(CHAT, tokenize=False)


def converted(folder: Path) -> Path:
    """The folder's model as a GGUF file in it."""
    converter, file = installed("gguf"), folder / "model.gguf"
    done = subprocess.run(
        [sys.executable, str(converter / "convert_hf_to_gguf.py"), "--outtype", "f32", "--outfile", str(file), str(folder)],
        env=os.environ | {"PYTHONPATH": str(converter)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return file


def test_llama_cpps_converter_finds_every_expert_of_a_mixture(source: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    installed("gguf")
    save("mixtral", source, tmp_path / "model")
    experts = model_of("mixtral").model.layers[1].mlp.experts
    gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)
    found = {
        tensor.name: torch.from_numpy(tensor.data.copy())
        for tensor in GGUFReader(converted(tmp_path / "model")).tensors
    }
    assert torch.equal(found["blk.1.ffn_gate_exps.weight"], gate)
    assert torch.equal(found["blk.1.ffn_up_exps.weight"], up)
    assert torch.equal(found["blk.1.ffn_down_exps.weight"], experts.down_proj.detach())


@pytest.mark.parametrize("name", ["llama", "llama3"])
def test_llama_cpps_converter_makes_a_gguf_file_with_the_same_logits(name: str, source: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    logits = save(name, source, tmp_path / "model")
    file = converted(tmp_path / "model")
    fields = GGUFReader(file).fields
    assert fields["llama.rope.freq_base"].contents() == 5e5
    assert fields["tokenizer.ggml.model"].contents() == "llama"  # from tokenizer.model, which was kept
    assert fields["tokenizer.ggml.tokens"].contents()[:3] == ["<unk>", "<s>", "</s>"]
    if name == "llama":  # transformers reads the factors of a scaled RoPE from no GGUF file
        with torch.no_grad():
            found = AutoModelForCausalLM.from_pretrained(tmp_path / "model", gguf_file=file.name)(torch.tensor([IDS]))
        torch.testing.assert_close(found.logits, logits, **CLOSE)
    else:
        assert "rope_freqs.weight" in [tensor.name for tensor in GGUFReader(file).tensors]
