"""Reward models: what a sequence classifier reads of a response, and in which tokens. Training one and asking one both
come through here, so that the two see the same.

A reward model is a Hugging Face sequence classifier with one logit: R1's have its own architecture and a scalar head
(Nature 10.1038/s41586-025-09422-z, Methods). The helpful one reads the final summary only, the safety one the whole
response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rewards.extract import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    after_thinking,
    last_answer_part,
    opens_thinking,
)
from rl.config import RewardConfig
from rl.scoring.routing import is_model, model_path
from rl.settings.chat_template import REWARD_MODEL_DAY, set_template, the_template
from rl.types import BadInput

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PROBE = f"{THINK_OPEN}why{THINK_CLOSE}{ANSWER_OPEN}what{ANSWER_CLOSE}"
_OUR_TAGS = {THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE}


def summary(completion: str, prompt: str = "") -> str | None:
    """The part that a user reads: what follows the thinking, the inside of its last <answer>...</answer> if it has one.

    prompt: what the completion goes on from; it may have opened the thinking. None: the thinking never ends.

        "<think>a</think> b" -> "b"    "<think>a</think>b<answer>c</answer>" -> "c"    "b" -> "b"    "<think>a" -> None
    """
    text = after_thinking(completion, opened=opens_thinking(prompt))
    if text is None:
        return None
    part = last_answer_part(text)
    return (text if part is None else part).strip()


def read_part(response: str, scores: str, opened: bool) -> str:
    """What a reward model reads of a response: all of it, or its summary, an empty text where the thinking never ends.

    scores: "response" or "summary". opened: the prompt has opened the thinking.
    """
    return (summary(response, THINK_OPEN if opened else "") or "") if scores == "summary" else response


# ------------------------------------------------------------------------------------------------ tokens


class EncodedResponse(NamedTuple):
    """One response in a classifier's tokens. type_ids: all 0 but for the second part of a BERT's pair. cut: it lost
    its end. shown: the text that is in the tokens."""

    token_ids: list[int]
    type_ids: list[int]
    cut: bool
    shown: str = ""


class Encoder:
    """Question and response in a classifier's tokens, by its own chat template where it has one.

    Without a template, a tokenizer with a separator (BERT's) gets the two as a pair, any other one text, question
    and response with an empty line between them.
    The literal text of a special token in either (an end of turn, say) is broken up by a space: a response must not
    write itself a second turn. The tags of thinking and answer stay whole.

    max_tokens: longer responses lose their end. thinking: responses hold thinking. Raises BadInput when the template
    would leave that out, as the templates of reasoning models do.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, thinking: bool) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        specials = {str(token) for token in tokenizer.all_special_tokens} - _OUR_TAGS
        self._specials = sorted((token for token in specials if len(token) > 1), key=len, reverse=True)
        probe = PROBE if thinking else "what"
        if the_template(tokenizer) and probe not in self._conversation("why", probe):
            raise BadInput(f"it leaves out part of a response like {probe}")

    def encode(self, question: str, response: str) -> EncodedResponse | None:
        """None when the question alone leaves no room for a response."""
        question, response = self.defused(question), self.defused(response)
        found = self._encode(question, response)
        keep = 0
        while (excess := len(found.token_ids) - self.max_tokens) > 0:
            ids = cast(Any, self.tokenizer)(response, add_special_tokens=False, verbose=False).input_ids
            # Text that was cut within a character may come back as more tokens than it had: always cut further.
            keep = min(len(ids) - excess, keep - 1) if keep else len(ids) - excess
            if keep < 1:
                return None
            response = cast(str, self.tokenizer.decode(ids[:keep], clean_up_tokenization_spaces=False))
            found = self._encode(question, response)._replace(cut=True)
        return found

    def _encode(self, question: str, response: str) -> EncodedResponse:
        call = cast(Any, self.tokenizer)
        if self.tokenizer.chat_template:
            out = call(self._conversation(question, response), add_special_tokens=False, verbose=False)
        elif self.tokenizer.sep_token:
            out = call(question, response, verbose=False)
        else:
            out = call(f"{question}\n\n{response}", verbose=False)
        ids = list(out["input_ids"])
        return EncodedResponse(ids, list(out.get("token_type_ids", [0] * len(ids))), False, response)

    def _conversation(self, question: str, response: str) -> str:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
        return cast(str, self.tokenizer.apply_chat_template(turns, tokenize=False))

    def defused(self, text: str) -> str:
        """The text with the literal text of special tokens broken up."""
        for token in self._specials:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def padding_token(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that a classifier takes for padding: its own, else the tokenizer's, unless that is its end token.

    A decoder reads its score off the last token that is not padding: with the end token as padding, off another one.
    """
    own = config.get_text_config().pad_token_id
    if own is not None:
        return int(own)
    other = tokenizer.pad_token_id
    return None if other == tokenizer.eos_token_id else cast("int | None", other)


def scored_position(token_ids: Sequence[int], padding: int | None) -> int:
    """Which token a decoder's score is read off: the last that is not padding; 0 when all are.

    [5, 6, 0], padding 0 -> 1    [5, 6, 0], None -> 2
    """
    return next((i for i in range(len(token_ids) - 1, 0, -1) if token_ids[i] != padding), 0)


# ------------------------------------------------------------------------------------------------ loading


def load_encoder(path: str, *, max_tokens: int = 0, thinking: bool = True) -> Encoder:
    """The encoder of the classifier at path. max_tokens 0: as many as the model was made for. thinking: see Encoder.

    Raises BadInput, naming the path, when there is no classifier with one logit, or it reads fewer tokens.
    """
    from jinja2 import TemplateError
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        set_template(tokenizer, REWARD_MODEL_DAY)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"rewards: model:{path}: no model with a tokenizer there ({reason})") from error
    kinds = config.architectures or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds) or config.num_labels != 1:
        raise BadInput(
            f"rewards: model:{path}: expected a sequence classifier with one logit, found {', '.join(kinds) or 'none'} "
            f"with {config.num_labels} labels"
        )
    own = token_limit(config, tokenizer)
    if max_tokens > own:
        raise BadInput(
            f"rewards: model:{path}: model.max_tokens={max_tokens}, but it was made for at most {own} tokens"
        )
    try:
        return Encoder(tokenizer, max_tokens or own, thinking=thinking)
    except (BadInput, TemplateError) as error:
        raise BadInput(f"rewards: model:{path}: its chat template cannot show a response: {error}") from error


def check_models(rewards: Sequence[RewardConfig]) -> None:
    """Raise BadInput for a reward model that cannot be used, before anything is started. Reads no weights."""
    for reward in rewards:
        if is_model(reward) and not model_path(reward).startswith("@"):  # that one, an earlier stage will make
            thinking = reward.model.scores == "response"
            load_encoder(model_path(reward), max_tokens=reward.model.max_tokens, thinking=thinking)


def token_limit(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens that the model was made for."""
    try:
        positions = int(config.get_text_config().max_position_embeddings)
    except AttributeError:  # no such limit in this architecture
        return int(tokenizer.model_max_length)
    return min(positions, int(tokenizer.model_max_length))


def load_classifier(path: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The classifier at path, ready to score. Raises BadInput when weights are missing: they would be random."""
    from transformers import AutoModelForSequenceClassification

    model, found = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype, output_loading_info=True)
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise BadInput(f"rewards: model:{path}: its files lack the weights {missing}; its scores would be random")
    return cast("PreTrainedModel", model.eval().to(device))
