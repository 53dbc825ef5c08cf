"""Architectures: parameters as published, operations and cache by hand, and where the figures come from."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from launch.plan.hardware import find_hardware, gpu_names, sources, table, this_machine
from launch.plan.model import Architecture, find_architecture, read_config
from recipes.bases import POSITIONS
from rl.types import BadInput

TINY = Architecture("t", "here", "llama", 8, 16, 2, 2, 1, 4, 10, tied=True)
"""D 8, I 16, L 2, Q 8, K 4, V 10."""


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("Qwen/Qwen2.5-14B", 14_770_033_664),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
    ],
)
def test_the_table_gives_the_number_of_parameters_that_the_hub_shows(name, parameters):
    assert find_architecture(name).parameters == parameters


def test_parameters_are_counted_matrix_by_matrix():
    # A layer: q and o 2 x 8 x 8, k and v 2 x 8 x 4, MLP 3 x 8 x 16, norms 2 x 8. Then the last norm and the embedding.
    assert TINY.layer_matrices == 128 + 64 + 384
    assert TINY.parameters == 2 * (576 + 16) + 8 + 80


def test_a_head_of_its_own_counts():
    untied = Architecture("t", "here", "llama", 8, 16, 2, 2, 1, 4, 10, tied=False)
    assert untied.parameters == TINY.parameters + 80


def test_a_token_costs_two_operations_a_weight_and_attention_over_what_precedes_it():
    # 3 tokens in sequences of 5: 3 x (2 x 1152 + 2 layers x 2 x 8 x 5); head 2 x 80 x 3.
    assert TINY.layer_flops(3, 5) == 3 * (2 * 1152 + 160)
    assert TINY.head_flops(3) == 480


def test_the_cache_holds_keys_and_values_of_every_layer():
    assert TINY.kv_values_per_token == 2 * 2 * 4
    assert find_architecture("Qwen/Qwen2.5-7B").kv_values_per_token * 2 == 56 * 1024  # bytes in bfloat16


def test_adapters_are_rank_times_inputs_and_outputs_of_every_matrix():
    # q, o: 16 each; k, v: 12 each; gate, up, down: 24 each.
    assert TINY.adapter_parameters(2) == 2 * 2 * (16 + 16 + 12 + 12 + 72)


def test_a_mixture_of_experts_multiplies_only_its_active_parameters():
    arch = find_architecture("deepseek-ai/DeepSeek-V3-Base")
    assert arch.parameters == 671_000_000_000
    assert arch.active < 37_000_000_000
    assert not arch.exact


def test_a_folder_says_where_its_figures_come_from(tmp_path):
    config = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
              "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": True}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    arch = find_architecture(str(tmp_path))
    assert (arch.parameters, arch.source) == (TINY.parameters, str(tmp_path / "config.json"))


def test_a_config_without_layers_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 4}')
    with pytest.raises(BadInput, match="num_hidden_layers"):
        read_config(tmp_path)


def test_an_unknown_model_is_refused_and_the_nearest_is_named():
    with pytest.raises(BadInput, match=r"nearest it knows is Qwen/Qwen2\.5-7B"):
        find_architecture("Qwen/Qwen25-7B")


class MadeWith(Exception):
    """Carries the shapes out of recipes.tiny_model before any model is made."""


@pytest.mark.parametrize("which", ["tied", "untied", "quick", "student"])
def test_the_table_has_the_shapes_that_the_tiny_models_are_made_with(which, monkeypatch, tmp_path):
    from recipes import tiny_model

    def capture(**shapes: object) -> None:
        raise MadeWith(shapes)

    stand_in = ModuleType("transformers")
    monkeypatch.setattr(stand_in, "LlamaConfig", capture, raising=False)
    monkeypatch.setattr(stand_in, "LlamaForCausalLM", None, raising=False)
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    monkeypatch.setattr(tiny_model, "make_tokenizer", lambda: SimpleNamespace(eos_token_id=1, pad_token_id=0))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MadeWith) as caught:
        vars(tiny_model)[which]()
    made = caught.value.args[0]
    arch = find_architecture(f"recipes.tiny_model:{which}")
    assert [arch.vocab, arch.hidden, arch.intermediate, arch.layers, arch.heads, arch.kv_heads, arch.context, arch.tied] == [
        made[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
                                "tie_word_embeddings")]  # fmt: skip


def test_the_table_knows_how_many_positions_every_model_has():
    from launch.plan.model import _table

    assert [name for name, arch in _table().items() if not arch.context] == []
    assert find_architecture("Qwen/Qwen2.5-7B").context == 131_072
    assert find_architecture("Qwen/Qwen2.5-Math-7B").context == 4096
    assert find_architecture("recipes.bases:qwen_math_7b").context == POSITIONS


# ------------------------------------------------------------------------------------------------ hardware


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_of_the_table_can_be_read_and_names_its_source(name):
    hw = find_hardware(name, nodes=2, gpus_per_node=4)
    assert hw.source
    assert hw.devices == 8
    assert hw.bf16 > hw.fp32 > 1e12


def test_every_share_and_time_of_the_table_has_a_source():
    explained = {"decode_layer_eager_s", "decode_layer_graph_s", "decode_sequence_s", "decode_step_s", "bucket_s"}
    said = sources()
    for section in ("efficiency", "memory"):
        for kind, values in table()[section].items():
            for name in values:
                own = f"{kind} {name.removesuffix('_source').removesuffix('_s').removesuffix('_gib')}"
                assert name in explained or any(key.startswith(own) or own.startswith(key) for key in said), name


def test_between_nodes_the_rings_use_all_network_cards_but_not_more_than_the_links():
    hw = find_hardware("H100-80G", nodes=2, gpus_per_node=8)
    assert hw.wire(8) == pytest.approx(0.7 * 450e9)
    assert hw.wire(16) == pytest.approx(0.7 * 400e9)
    one_card = find_hardware("H100-80G", nodes=2, gpus_per_node=1)
    assert one_card.wire(2) == pytest.approx(0.7 * 50e9)


def test_an_unknown_gpu_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean H100-80G"):
        find_hardware("H100-80", nodes=1, gpus_per_node=8)


def test_only_this_machine_can_be_calibrated():
    with pytest.raises(BadInput, match="not a H100-80G"):
        find_hardware("H100-80G", nodes=1, gpus_per_node=8, calibrate=True)


def test_a_calibration_that_takes_too_long_ends_with_a_message(monkeypatch):
    from launch.plan import hardware
    from rl.types import AhaError

    monkeypatch.setattr(hardware, "CALIBRATION_TIMEOUT_S", 0.01)
    with pytest.raises(AhaError, match=r"nothing measured within 0\.01 s"):
        hardware.calibrated(this_machine())


def test_the_best_of_the_rounds_is_the_rate():
    from launch.plan.calibrate import ROUNDS, best_rate

    rounds = []
    rate = best_rate(10.0, lambda: rounds.append(len(rounds)))
    assert len(rounds) > ROUNDS
    assert rate > 10.0  # far less than a second each
