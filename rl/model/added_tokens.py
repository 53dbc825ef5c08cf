"""Tokens before a run starts: new ones are added to a copy of the model, and a teacher's must be the student's."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rl.model.older_names import complete
from rl.model.pretrained import load_config, load_tokenizer, positions
from rl.types import BadInput

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def with_tokens(path: str, tokens: Sequence[str], home: Path = Path("models"), *, lora_rank: int = 0) -> str:
    """A model with these tokens: path itself when it has them all, else a copy under home, which is written once.

    The copy has the new tokens in its tokenizer, and a row for each in the embedding, and in the head where it is not
    tied. A new row is the mean of the other rows, so at first the model treats the token as an average one.
    The tokens are not special: text decoded with skip_special_tokens keeps them, as for R1's distilled models.
    lora_rank: model.lora.rank. Adapters leave embedding and head frozen, so the rows of new tokens would never change.
    Raises BadInput when a token is empty or named twice, when there is no model at path, or when a token is new and
    lora_rank is not 0.
    """
    if len(set(tokens)) < len(tokens) or not all(token.strip() for token in tokens):
        raise BadInput(f"model.add_tokens={','.join(tokens)}: a token is empty or named twice")
    if not tokens:
        return path
    tokenizer = load_tokenizer(path)
    known = tokenizer.get_vocab()
    new = [token for token in tokens if token not in known]
    if not new:
        return path
    if lora_rank:
        raise BadInput(
            f"model.add_tokens={','.join(new)}: not among the tokens of {path}, and model.lora.rank={lora_rank} trains "
            "only adapters, so the embeddings of new tokens would never change. First add them in a run that trains "
            "all weights (model.lora.rank=0), then train adapters on the model that it makes"
        )
    folder = home / f"{Path(path).name}-tokens-{_digest(path, new)}"
    if not folder.is_dir():
        load_config(path)
        log.info("writing %s with %d new token(s) to %s", path, len(new), folder)
        # Renamed when it is whole, so that a kill never leaves half a model under the final name.
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _write(path, new, partial)
        partial.rename(folder)
    return str(folder)


def refuse_other_tokenizer(key: str, teacher: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise BadInput when the teacher's tokens are not the student's. key: the setting that names the teacher."""
    try:
        theirs = load_tokenizer(teacher).get_vocab()
    except BadInput as error:
        raise BadInput(f"{key}={teacher}: there is no tokenizer to compare with the student's") from error
    ours = tokenizer.get_vocab()
    if theirs == ours:
        return
    token = min(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    raise BadInput(
        f"{key}={teacher}: its tokenizer has {len(theirs)} tokens, the student's {len(ours)}, and they differ: "
        f"{token!r} is {_place(theirs, token)} there and {_place(ours, token)} here. Only a distribution over the same "
        "tokens can be learnt; sample from this teacher and train on its text instead"
    )


def refuse_short_teacher(key: str, teacher: str, tokens: int) -> None:
    """Raise BadInput when the teacher was made for fewer tokens than the student's sequences may have.

    Beyond its context length a model predicts noise. key: the setting that names the teacher.
    """
    own = positions(load_config(teacher))
    if own < tokens:
        raise BadInput(
            f"{key}={teacher}: made for at most {own} tokens, and the student's sequences may have up to {tokens}; "
            f"set model.context_length={own}"
        )


def _place(vocabulary: Mapping[str, int], token: str) -> str:
    return f"number {vocabulary[token]}" if token in vocabulary else "missing"


def _digest(path: str, new: Sequence[str]) -> str:
    """Hash of the new tokens and of the names, sizes and times of the model's files, 12 hex digits. Not of the files'
    content: weights may be huge.
    """
    digest = hashlib.sha256(repr((path, list(new))).encode())
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        stats = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest.update(repr(stats).encode())
    return digest.hexdigest()[:12]


def _write(path: str, new: Sequence[str], folder: Path) -> None:
    import torch
    from tokenizers import AddedToken
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(path)
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in new])
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        # Only when needed: some models have spare rows, which new tokens use up first.
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        _fill_with_mean(embedding.weight, before, len(tokenizer))
        if head.weight is not embedding.weight:
            _fill_with_mean(head.weight, before, len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    complete(folder, path)


def _fill_with_mean(weight_VD: nn.Parameter, start: int, stop: int) -> None:
    """Set rows start .. stop-1 to the mean of the rows before, summed in float64. [1], [3], new -> [1], [3], [2]."""
    mean_D = weight_VD[:start].double().mean(dim=0)
    weight_VD[start:stop] = mean_D.to(weight_VD.dtype)
