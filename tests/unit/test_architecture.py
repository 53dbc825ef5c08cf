"""Architectures: those that a learner scores as transformers does, and those that it refuses."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from recipes.tiny import recipe
from recipes.tiny_model import make_tokenizer
from rl.config import LearnerConfig
from rl.model.attention import packed_attention, rows_attention
from rl.model.policy import ModelInput, load_policy, refuse_model
from rl.model.shared_prompts import Sharing
from rl.settings.overrides import apply_overrides
from rl.types import BadInput
from rl.workflow.inputs import prepare

CPU = torch.device("cpu")
LENGTHS = (17, 11, 23)
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
          "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
SOUND = {
    "Llama": {}, "Mistral": {"sliding_window": None}, "Qwen2": {}, "Qwen3": {"head_dim": 16}, "Olmo2": {},
    "SmolLM3": {}, "Granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "Gemma3": {"head_dim": 16, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}  # fmt: skip
RECURRENT = {
    "Qwen3Next": {**LINEAR, "head_dim": 16, "num_experts": 0, "mlp_only_layers": [0, 1]},
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1,
           "topk_group": 1, "n_routed_experts": 4}  # fmt: skip
WRONG = {  # name: (settings, what the refusal says)
    "GptOss": ({"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}, "the learner's attention cannot compute .*sinks"),
    "Bloom": ({"n_layer": 2, "n_head": 4}, "attention of its own"),
    "Glm4Moe": ({**EXPERTS, "head_dim": 16}, "e_score_correction_bias is in its files"),
    "DeepseekV3": (
        {**EXPERTS, "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
         "qk_nope_head_dim": 8, "v_head_dim": 16}, "e_score_correction_bias is in its files",
    ),
}  # fmt: skip


def config_of(name: str, settings: dict) -> hf.PretrainedConfig:
    kind = hf.Gemma3TextConfig if name == "Gemma3" else getattr(hf, f"{name}Config")
    return kind(**{**SMALL, **settings})


def made(name: str, settings: dict, folder: Path) -> str:
    """A small model of the architecture whose weights are large enough for every part of it to matter."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config_of(name, settings), dtype=torch.float32)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


def batch() -> ModelInput:
    positions_T = torch.cat([torch.arange(n) for n in LENGTHS])
    index_M = torch.nonzero(positions_T).squeeze(1)
    ids_T = torch.randint(3, 64, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    return ModelInput(ids_T, positions_T, torch.tensor(LENGTHS), index_M, torch.ones(len(index_M)))


def alone(path: str, of: ModelInput) -> torch.Tensor:
    """One sequence at a time through transformers' own attention."""
    model = hf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    parts = []
    for start, end in itertools.pairwise([0, *itertools.accumulate(LENGTHS)]):
        ids_T = of.token_ids_T[start:end]
        logprobs_TV = torch.log_softmax(model(input_ids=ids_T[None]).logits[0, :-1], dim=-1)
        parts.append(logprobs_TV.gather(1, ids_T[1:, None]).squeeze(1))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("name", "layout"),
    [*itertools.product(SOUND, ["rows", "packed"]), *((name, "rows") for name in RECURRENT)],
)
@torch.no_grad()
def test_an_accepted_architecture_is_scored_as_transformers_scores_each_sequence_alone(tmp_path, name, layout):
    path = made(name, {**SOUND, **RECURRENT}[name], tmp_path)
    learner = LearnerConfig(layout=layout)
    refuse_model(path, learner, gpu=False)
    of = batch()
    scored = load_policy(path, learner, CPU, dtype=torch.float32)(of)[0]
    torch.testing.assert_close(scored, alone(path, of), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "layout"), list(itertools.product(SOUND, ["rows", "packed"])))
@torch.no_grad()
def test_an_accepted_architecture_computes_a_shared_prompt_once_and_scores_alike(tmp_path, name, layout):
    path = made(name, SOUND[name], tmp_path)
    learner = LearnerConfig(layout=layout, share_prompts="true")
    refuse_model(path, learner, gpu=False)
    of, prompt = batch(), 9
    first, second, third = of.token_ids_T.split(LENGTHS)
    ids_T = torch.cat([first, first[:prompt], second[prompt:], first[:prompt], third[prompt:]])
    sharing = Sharing(np.array(LENGTHS), np.array([0, prompt, prompt]), CPU)
    once = dataclasses.replace(of, token_ids_T=ids_T, sharing=sharing)
    scored = load_policy(path, learner, CPU, dtype=torch.float32)(once)[0]
    assert sharing.calls == 2  # layers
    torch.testing.assert_close(scored, alone(path, once), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", RECURRENT)
@torch.no_grad()
def test_recurrent_layers_share_no_prompts(tmp_path, name):
    path = made(name, RECURRENT[name], tmp_path)
    with pytest.raises(BadInput, match=f"share_prompts=true: {name}ForCausalLM has .*; use auto or false"):
        refuse_model(path, LearnerConfig(layout="rows", share_prompts="true"), gpu=False)
    learner = LearnerConfig(layout="rows")
    refuse_model(path, learner, gpu=False)
    policy, of = load_policy(path, learner, CPU, dtype=torch.float32), batch()
    assert policy.why_not_shared
    claimed = dataclasses.replace(of, sharing=Sharing(np.array(LENGTHS), np.zeros(3, np.int64), CPU))
    torch.testing.assert_close(policy(claimed)[0], alone(path, of), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [16, 24])
@torch.no_grad()
def test_a_window_shorter_than_a_sequence_with_its_prompt_is_refused(tmp_path, window):
    path = made("Mistral", {"sliding_window": window}, tmp_path)
    policy, of = load_policy(path, LearnerConfig(layout="rows"), CPU, dtype=torch.float32), batch()
    of = dataclasses.replace(of, sharing=Sharing(np.array(LENGTHS), np.array([0, 0, 0]), CPU))
    if window < max(LENGTHS):
        with pytest.raises(BadInput, match=f"sliding window of {window} tokens"):
            policy(of)
    else:
        torch.testing.assert_close(policy(of)[0], alone(path, of), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        *((name, "packed", "set learner.layout=rows") for name in RECURRENT),
        *((name, layout, message) for name, (_, message) in WRONG.items() for layout in ("rows", "packed")),
    ],
)
def test_an_architecture_whose_numbers_would_be_wrong_is_refused_before_the_start_and_at_load(
    tmp_path, name, layout, message
):
    path = made(name, RECURRENT[name] if name in RECURRENT else WRONG[name][0], tmp_path)
    learner = LearnerConfig(layout=layout)
    with pytest.raises(BadInput, match=f"{name}ForCausalLM: .*{message}"):
        refuse_model(path, learner, gpu=False)
    with pytest.raises(BadInput, match=f"{name}ForCausalLM: .*{message}"):
        load_policy(path, learner, CPU, dtype=torch.float32)


def test_a_run_is_refused_before_anything_is_started(tmp_path):
    path = made("Lfm2", RECURRENT["Lfm2"], tmp_path)
    make_tokenizer().save_pretrained(path)
    cfg = apply_overrides(recipe(), [f"model.path={path}", "model.context_length=128", "rollout.max_new_tokens=16"])
    assert prepare(cfg).context_length == 128
    for overrides in (["learner.layout=packed"], ["cluster.device=gpu"]):
        with pytest.raises(BadInput, match=r"Lfm2ForCausalLM: conv would carry .* set learner\.layout=rows"):
            prepare(apply_overrides(cfg, overrides))


@pytest.mark.parametrize("attention", [rows_attention, packed_attention])
def test_an_attention_function_refuses_what_it_would_leave_out(attention):
    q = torch.zeros(1, 2, 3, 4)
    bounds = {"cu_seq_lens_q": torch.tensor([0, 3], dtype=torch.int32)}
    attention(nn.Linear(1, 1), q, q, q, None, softcap=None, **bounds)
    for mask, settings in ((None, {"softcap": 50.0}), (None, {"s_aux": torch.zeros(2)}), (torch.zeros(1, 1, 3, 3), {})):
        with pytest.raises(BadInput, match=r"Linear: the learner's attention cannot compute "):
            attention(nn.Linear(1, 1), q, q, q, mask, **settings, **bounds)
