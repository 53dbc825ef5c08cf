"""A reward model in training: a Hugging Face decoder with a scalar head. Layouts and attention are the learner's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.modeling_utils import PreTrainedModel

from rl.config import LearnerConfig
from rl.model.attention import attention_name
from rl.model.policy import UNSHARDED, Backbone, Loading, ModelInput, make_ready, resolve_layout
from rl.model.pretrained import load_config
from rl.types import BadInput

HEAD = "score"
"""Name of the scalar head in transformers' decoders for sequence classification."""


class Classifier(Backbone):
    """A sequence classifier with one logit. Its forward returns the logit at each masked-in token, (M,) float32."""

    def __init__(self, hf: PreTrainedModel, layout: str) -> None:
        super().__init__(hf, layout)
        head = dict(hf.named_children()).get(HEAD)
        if not isinstance(head, nn.Linear) or head.out_features != 1 or hf.base_model is hf:
            raise BadInput(
                f"{type(hf).__name__}: a reward model must be a decoder with a linear head {HEAD!r}, one logit"
            )

    def forward(self, batch: ModelInput) -> Tensor:
        head = self.hf.get_submodule(HEAD)
        assert isinstance(head, nn.Linear)
        scores_M: Tensor = head(self.hidden_at(batch, offset=0).to(head.weight.dtype))[:, 0].float()
        return scores_M


def load_trainee(
    path: str,
    learner: LearnerConfig,
    device: torch.device,
    *,
    dtype: torch.dtype,
    seed: int,
    loading: Loading = UNSHARDED,
) -> Classifier:
    """A Classifier from a causal LM, with a new head, or from a classifier, with its own. All weights are trained.

    A new head is drawn by seed from N(0, 1 / (D + 1)), so that scores begin near 0 (Stiennon et al., 2009.01325).
    Raises BadInput for a model that is not a decoder, or has more than one logit.
    """
    layout = resolve_layout(learner, device)
    config = load_config(path)
    if (
        any(kind.endswith("ForSequenceClassification") for kind in config.architectures or [])
        and config.num_labels != 1
    ):
        raise BadInput(f"{path}: is a classifier with {config.num_labels} logits; a reward model has one")
    try:
        with loading.block():
            hf, found = AutoModelForSequenceClassification.from_pretrained(
                path,
                num_labels=1,
                dtype=dtype,
                attn_implementation=attention_name(layout, device),
                output_loading_info=True,
            )
    except ValueError as error:
        raise BadInput(f"{path}: cannot become a reward model ({str(error).splitlines()[0]})") from error
    model = Classifier(hf, layout)
    missing = set(found["missing_keys"])
    if missing - {f"{HEAD}.weight"}:
        raise BadInput(f"{path}: its files lack the weights {', '.join(sorted(missing)[:3])}")
    if missing:
        width = hf.config.get_text_config().hidden_size
        draw = torch.Generator().manual_seed(seed)
        weight = hf.get_submodule(HEAD).weight
        assert isinstance(weight, nn.Parameter)
        with torch.no_grad(), loading.filling(weight):
            weight.copy_(torch.randn(1, width, generator=draw) / (width + 1) ** 0.5)
    hf.config.architectures = [type(hf).__name__]
    make_ready(model, learner, device)
    loading.finish(model, path)
    return model
