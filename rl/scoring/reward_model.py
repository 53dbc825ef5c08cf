"""RewardModel: a sequence classifier that scores groups. What one Ray actor runs; it imports no Ray.

Axis suffixes: _G samples of a group, _B rows of a batch.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence

import torch
from transformers.modeling_utils import PreTrainedModel

from rl.config import RewardConfig
from rl.scoring.reward_model_text import EncodedResponse, Encoder, load_classifier, load_encoder, padding_token, summary
from rl.scoring.routing import model_path
from rl.scoring.step_ends import aggregated
from rl.scoring.step_scores import step_head, step_probabilities
from rl.settings.precision import torch_dtype
from rl.types import Prompt, RewardPart, RewardReport, RolloutGroup, Verdict

log = logging.getLogger(__name__)


class RewardModel:
    """Scores the responses of a group. The model is loaded by the first call, or by start().

    name: of its part. device: "cpu" or "gpu". threads: of the CPU.
    """

    def __init__(self, name: str, reward: RewardConfig, device: str, threads: int) -> None:
        self._name, self._reward, self._cfg = name, reward, reward.model
        self._device, self._threads = torch.device("cuda" if device == "gpu" else "cpu"), threads
        self._loaded: tuple[Encoder, PreTrainedModel] | None = None

    def start(self) -> int:
        """Load the model. Returns our pid. Raises BadInput when it cannot be used."""
        self._load()
        return os.getpid()

    def score(self, group: RolloutGroup) -> RewardReport:
        """A part for each sample, with the logit (or its sigmoid) as the score.

        A positive logit is reported as correct, any other as wrong. A response without a summary is scored as an empty
        one, and reported as unparseable. A score that is not finite has failed, and so has a response for which the
        question leaves no room.
        """
        if self._cfg.steps:
            return self._score_by_steps(group)
        encoder, model = self._load()
        prompt = group.prompt
        shown_G = [self._shown(r.text, prompt) for r in group.rollouts_G]
        encoded_G = [encoder.encode(prompt.question or prompt.text, shown or "") for shown in shown_G]
        fits = [encoded for encoded in encoded_G if encoded is not None]
        scores = iter(_logits(model, fits, self._batch_tokens(model)))
        too_long = f"the question alone fills the model's {encoder.max_tokens} tokens"
        parts_G = [
            _failed(too_long) if encoded is None else self._part(next(scores), shown is not None, encoded.cut)
            for shown, encoded in zip(shown_G, encoded_G, strict=True)
        ]
        cut = sum(encoded.cut for encoded in fits)
        return RewardReport([{self._name: part} for part in parts_G], truncated=cut, pid=os.getpid())

    def score_steps(self, group: RolloutGroup) -> list[list[float]]:
        """A process reward model's probability of each step of each response, in one forward pass a response. Empty
        where a response has no step, or the question leaves no room for one.
        """
        encoder, model = self._load()
        prompt = group.prompt
        responses = [self._shown(r.text, prompt) or "" for r in group.rollouts_G]
        question = prompt.question or prompt.text
        return step_probabilities(model, encoder, question, responses, self._cfg.steps, self._batch_tokens(model))

    def _score_by_steps(self, group: RolloutGroup) -> RewardReport:
        """A part for each sample: one score from those of its steps (rl.scoring.step_ends.aggregated)."""
        parts_G = []
        for scores in self.score_steps(group):
            if not scores or not all(map(math.isfinite, scores)):
                parts_G.append(_failed(f"the model returned {scores}" if scores else "it has no step that can be read"))
                continue
            score = aggregated(scores, self._cfg.aggregate)
            verdict = Verdict.CORRECT if score > 0.5 else Verdict.WRONG
            parts_G.append(RewardPart(score, verdict, f"{len(scores)} steps, the lowest {min(scores):.2f}"))
        return RewardReport([{self._name: part} for part in parts_G], pid=os.getpid())

    def _shown(self, completion: str, prompt: Prompt) -> str | None:
        return summary(completion, prompt.text) if self._cfg.scores == "summary" else completion

    def _part(self, logit: float, ended: bool, cut: bool) -> RewardPart:
        if not math.isfinite(logit):
            return _failed(f"the model returned {logit}")
        score = 1 / (1 + math.exp(-max(logit, -700.0))) if self._cfg.output == "sigmoid" else logit
        if not ended:
            return RewardPart(score, Verdict.UNPARSEABLE, "the thinking never ends: an empty summary was scored")
        return RewardPart(score, Verdict.CORRECT if logit > 0 else Verdict.WRONG, "cut at its end" if cut else "")

    def _load(self) -> tuple[Encoder, PreTrainedModel]:
        if self._loaded is None:
            if self._device.type == "cpu":
                torch.set_num_threads(self._threads)
            path = model_path(self._reward)
            encoder = load_encoder(path, max_tokens=self._cfg.max_tokens, thinking=self._cfg.scores == "response")
            model = load_classifier(path, torch_dtype(self._cfg.dtype), self._device)
            if self._cfg.steps:
                step_head(model)
            _choose_padding(model, encoder)
            self._loaded = encoder, model
        return self._loaded

    def _batch_tokens(self, model: PreTrainedModel) -> int:
        """0 (one row a batch) for a model that cannot tell padding from text."""
        return self._cfg.batch_tokens if model.config.get_text_config().pad_token_id is not None else 0


def _choose_padding(model: PreTrainedModel, encoder: Encoder) -> None:
    """Give a model without a padding token the tokenizer's, where it can have that."""
    config = model.config.get_text_config()
    config.pad_token_id = padding_token(model.config, encoder.tokenizer)
    if config.pad_token_id is None:
        log.warning("this reward model has no padding token: it reads one response at a time")


def _logits(model: PreTrainedModel, encoded: Sequence[EncodedResponse], batch_tokens: int) -> list[float]:
    """One number each, in order. Similar lengths share a batch of at most batch_tokens tokens, padding included."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].token_ids), reverse=True)
    out = [math.nan] * len(encoded)
    while order:
        longest = len(encoded[order[0]].token_ids)
        batch, order = order[: max(1, batch_tokens // longest)], order[max(1, batch_tokens // longest) :]
        for i, logit in zip(batch, _forward(model, [encoded[i] for i in batch]), strict=True):
            out[i] = logit
    return out


@torch.inference_mode()
def _forward(model: PreTrainedModel, encoded_B: Sequence[EncodedResponse]) -> list[float]:
    """One batch, padded on the right, where no model's positions are moved by it. Halved when memory runs out."""
    config = model.config.get_text_config()
    longest = max(len(e.token_ids) for e in encoded_B)
    ids = torch.full((len(encoded_B), longest), config.pad_token_id or 0)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, encoded in enumerate(encoded_B):
        length = len(encoded.token_ids)
        ids[row, :length] = torch.tensor(encoded.token_ids)
        types[row, :length] = torch.tensor(encoded.type_ids)
        mask[row, :length] = 1
    extra = {"token_type_ids": types.to(model.device)} if types.any() else {}
    try:
        out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **extra)
        return [float(x) for x in out.logits.float().reshape(len(encoded_B)).cpu()]
    except torch.OutOfMemoryError:
        if len(encoded_B) == 1:
            log.warning("no memory for a response of %d tokens; it has failed", longest)
            return [math.nan]
    half = len(encoded_B) // 2
    return _forward(model, encoded_B[:half]) + _forward(model, encoded_B[half:])


def _failed(reason: str) -> RewardPart:
    return RewardPart(math.nan, Verdict.FAILED, reason)
