"""Rows with a teacher's K largest logprobs at each token of their target. A rejection stage writes these columns:

    target_ids         (N,) the target's tokens as they were sampled, end token included; left out: target, tokenised
    teacher_ids        (N, K) the teacher's likeliest tokens at each of them
    teacher_logprobs   (N, K) their logprobs, nats, at temperature 1 and without top-p
    teacher_tokenizer  vocabulary_hash of the teacher's tokenizer

Axis suffixes: _N learnt tokens of a row, _K cached tokens.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rl.data.templates import Table, end_token_ids
from rl.types import BadInput, TopLogprobs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TARGET_IDS, IDS, LOGPROBS, TOKENIZER = "target_ids", "teacher_ids", "teacher_logprobs", "teacher_tokenizer"
ROUNDING = 1e-3
"""By how much probabilities may add up to more than 1: logprobs in files are rounded."""


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the tokens and their ids, 16 hex digits. Models of equal hash have distributions over equal tokens."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def refuse_other_tokenizers(table: Table, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise BadInput for the first row whose logprobs belong to another vocabulary than the student's."""
    ours = vocabulary_hash(tokenizer)
    for i in range(len(table.rows)):
        theirs = table.field(i, TOKENIZER)
        if theirs != ours:
            raise BadInput(
                f"{table.where(i)}: {TOKENIZER}={theirs}, but the student's tokenizer is {ours} "
                "(rl.data.teacher_logprobs.vocabulary_hash): it has other tokens, or other ids for them. Only a "
                "distribution over the same tokens can be learnt; train on the target's text (sft.distill.cached=false)"
            )


def target_ids(table: Table, index: int, tokenizer: PreTrainedTokenizerBase, tokenised: np.ndarray) -> np.ndarray:
    """The tokens that are learnt, int32 (N,): target_ids of the row, or `tokenised` where it has none.

    Raises BadInput when target_ids are not the tokens of the row's target.
    """
    if table.rows[index].get(TARGET_IDS) is None:
        return tokenised
    ids = _array(table, index, TARGET_IDS, np.int32, 1)
    vocab = len(tokenizer)
    if not len(ids) or not ((ids >= 0) & (ids < vocab)).all():
        raise BadInput(f"{table.where(index)}: {TARGET_IDS} is empty, or not within the tokenizer's {vocab} tokens")
    text_ids = ids[:-1] if ids[-1] in end_token_ids(tokenizer) else ids
    text = cast(Any, tokenizer).decode(text_ids, skip_special_tokens=False)
    target = table.text(index, table.cfg.target_field)
    if text.encode("utf-8", "replace") != target.encode("utf-8", "replace"):
        raise BadInput(
            f"{table.where(index)}: {TARGET_IDS} are the tokens of {text[:60]!r}, not of the target {target[:60]!r}: "
            "the text was changed after it was sampled, so the teacher's logprobs are of other tokens"
        )
    return ids


def top_logprobs(table: Table, index: int, learnt_N: np.ndarray) -> TopLogprobs:
    """The row's stored logprobs, one position for each learnt token. Raises BadInput where they are no distribution."""
    where = table.at(index)
    ids_NK, logprobs_NK = _array(table, index, IDS, np.int32, 2), _array(table, index, LOGPROBS, np.float32, 2)
    if ids_NK.shape != logprobs_NK.shape or not ids_NK.shape[1]:
        raise BadInput(f"{where}: {IDS} is {ids_NK.shape}, {LOGPROBS} is {logprobs_NK.shape}; both must be (N, K)")
    if len(ids_NK) != len(learnt_N):
        raise BadInput(
            f"{where}: {IDS} has {len(ids_NK)} positions, but the target has {len(learnt_N)} tokens, the end token "
            f"included; put the sampled tokens into {TARGET_IDS}, so that the target is not tokenised again"
        )
    if (ids_NK < 0).any() or (np.diff(np.sort(ids_NK, axis=1), axis=1) == 0).any():
        raise BadInput(f"{where}: {IDS} names a token twice at one position, or a negative one")
    mass_N = np.exp(logprobs_NK.astype(np.float64)).sum(axis=1)
    if not (mass_N <= 1 + ROUNDING).all():  # unlike (mass_N > 1 + ROUNDING).any(), this finds NaN too
        at = int(np.flatnonzero(~(mass_N <= 1 + ROUNDING))[0])
        raise BadInput(f"{where}: {LOGPROBS} at position {at} add up to a probability of {mass_N[at]:.4g}, above 1")
    return TopLogprobs(ids_NK, logprobs_NK)


def refuse_ragged(table: Table, tops: list[TopLogprobs]) -> None:
    """Raise BadInput unless all rows have the same K: a micro-batch puts several rows into one array."""
    first = tops[0].ids_NK.shape[1]
    for i, top in enumerate(tops):
        if top.ids_NK.shape[1] != first:
            raise BadInput(f"{table.where(i)}: {top.ids_NK.shape[1]} logprobs a token, the first row has {first}")


def _array(table: Table, index: int, name: str, dtype: type, dims: int) -> np.ndarray:
    value = table.field(index, name)
    try:
        array: np.ndarray = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{table.where(index)}: field {name!r} is not {dims}-dimensional numbers: {error}") from error
    if array.ndim != dims:
        raise BadInput(f"{table.where(index)}: field {name!r} has {array.ndim} dimensions, expected {dims}")
    return array
