"""An exported folder: the same model to transformers, the same prompts as in training, to Ollama too."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from recipes.tiny import recipe
from recipes.tiny_model import make
from rl.config import DataConfig
from rl.data.templates import prompt_prefix, render
from rl.export.folder import Sampling, chat_template, export_folder
from rl.model.pretrained import load_tokenizer
from rl.settings.overrides import to_json
from rl.types import BadInput

QUESTIONS = ["What is 1 + 2?", "Add {1} and 2", 'Say "so"\nand {{stop}} ', "Wie groß ist π? "]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended: the tiny model with random weights, and the run's records."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    make(folder / "model", tie=True)
    (folder / "resolved.json").write_text(to_json(recipe()))
    before, after = ({"pass@1": p, "stderr": 0.021, "greedy": p + 0.1} for p in (0.25, 0.5))
    summary = {"before": before, "after": after, "steps": 10, "gain": 0.25, "gain_stderr": 0.03}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    return export_folder(run, run.parent / "out", ollama=True, sampling=Sampling())


def greedy(folder: Path, text: str) -> list[int]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    return model.generate(ids, do_sample=False, max_new_tokens=20)[0].tolist()


def test_the_exported_folder_loads_in_transformers_and_continues_as_before(run: Path, exported: Path):
    assert greedy(exported, "reverse 1234:") == greedy(run / "model", "reverse 1234:")


def test_the_generation_config_ends_where_training_did(exported: Path):
    from transformers import AutoTokenizer, GenerationConfig

    config, tokenizer = GenerationConfig.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    assert config.eos_token_id == [tokenizer.eos_token_id]
    assert (config.temperature, config.top_p, config.do_sample, config.max_new_tokens) == (0.6, 0.95, True, 64)


def test_a_model_with_two_end_tokens_is_exported_with_both(run: Path, tmp_path: Path):
    from transformers import GenerationConfig

    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [1, 0]}')
    out = export_folder(tmp_path / "model", tmp_path / "out", ollama=True, sampling=Sampling(), template="plain")
    assert GenerationConfig.from_pretrained(out).eos_token_id == [0, 1]
    names = load_tokenizer(str(out)).convert_ids_to_tokens([0, 1])
    stops = [line for line in (out / "Modelfile").read_text().splitlines() if line.startswith("PARAMETER stop")]
    assert stops == [f'PARAMETER stop "{name}"' for name in names]


def test_the_card_says_what_it_was_made_from_and_what_was_measured(exported: Path):
    card = (exported / "README.md").read_text()
    for line in (
        "- Base model: `recipes.tiny_model:tied`",
        "- Training: supervised fine-tuning (150 updates of 64 examples) and then GRPO (10 steps of 16 prompts x 8 samples)",
        "- Rewards: `accuracy` x 1, `format` x 0.2",
        "| pass@1, sampled, ± standard error | 25.0 ± 2.1 | 50.0 ± 2.1 |",
        "| greedy | 35.0 | 60.0 |",
        "Gain: +25.0 points, standard error 3.0.",
    ):
        assert line in card
    assert (exported / "resolved.json").read_text() == to_json(recipe())
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "datasets:" not in card  # a task in Python is no Hub id


def test_a_card_names_hub_ids(run: Path, tmp_path: Path):
    from rl.export.model_card import model_card

    cfg = recipe()
    hub = dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, path="Qwen/Qwen2.5-7B"),
        prompts=DataConfig(source="openai/gsm8k"),
    )
    card = model_card(tmp_path, hub, "x")
    assert "\nbase_model: Qwen/Qwen2.5-7B\n" in card
    assert "\ndatasets:\n- openai/gsm8k\n---" in card


def test_a_chat_goes_in_as_the_prompts_of_training_did(exported: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    chat = [{"role": "user", "content": "reverse 1234:"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "reverse 1234:"


@pytest.mark.parametrize(
    "template",
    [
        "r1_zero", "plain", "{prompt}\n", "Q: {prompt} \"\\n\"\n'A':<think>\n", "🙂 {prompt} 👩‍🔬→ Ä: 数学", "{prompt}\u200d\t\\U0001F600 \\ud83d",
        "{% if %} {# {{ }} {prompt} {{ x }} \\", "\x1b[1m{prompt}\x7f\u2028\x85é", "'\\'' \\\" {prompt} \\N{DASH} \\x41",
    ],
)  # fmt: skip
@pytest.mark.parametrize("begin", [False, True])
def test_the_chat_template_renders_what_training_rendered(make_byte_tokenizer, template: str, begin: bool):
    tokenizer, data = make_byte_tokenizer(begin=begin), DataConfig(template=template)
    start = "<s>" if prompt_prefix(data, tokenizer) else ""
    assert bool(start) == begin
    rendered = {q: start + render(q, data, tokenizer) for q in QUESTIONS}
    tokenizer.chat_template = chat_template(data, tokenizer)
    for question, text in rendered.items():
        chat = [{"role": "user", "content": question}]
        assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text
    answered = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    whole = start + render("Why?", data, tokenizer) + "So.</s>"
    assert tokenizer.apply_chat_template(answered, tokenize=False) == whole
    with pytest.raises(Exception, match="trained without system messages"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be brief."}], tokenize=False)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(run: Path, exported: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="holds no model"):
        export_folder(tmp_path, tmp_path / "out", ollama=False, sampling=Sampling())
    with pytest.raises(BadInput, match="is not empty"):
        export_folder(run, exported, ollama=False, sampling=Sampling())
    with pytest.raises(BadInput, match="has no chat template"):
        export_folder(run, tmp_path / "out", ollama=False, sampling=Sampling(), template="chat")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sampling", "fault"),
    [
        (Sampling(-0.1), "--temperature -0.1: must be at least 0"),
        (Sampling(float("nan")), "--temperature nan"),
        (Sampling(float("inf")), "--temperature inf"),
        (Sampling(0.6, 0.0), "--top-p 0: must be more than 0 and at most 1"),
        (Sampling(0.6, 1.1), "--top-p 1.1"),
        (Sampling(0.6, float("nan")), "--top-p nan"),
    ],
)
def test_sampling_settings_that_no_reader_takes_are_refused(run: Path, tmp_path: Path, sampling: Sampling, fault: str):
    with pytest.raises(BadInput, match=fault):
        export_folder(run, tmp_path / "out", ollama=True, sampling=sampling)
    assert list(tmp_path.iterdir()) == []


def test_temperature_0_exports_a_model_that_decodes_greedily(run: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = shutil.copytree(run, tmp_path / "run")
    (source / "model" / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7, "top_k": 5}')
    out = export_folder(source, tmp_path / "out", ollama=True, sampling=Sampling(0.0))
    config = json.loads((out / "generation_config.json").read_text())
    assert config["do_sample"] is False
    assert not {"temperature", "top_p", "top_k"} & set(config)
    assert "PARAMETER temperature 0\n" in (out / "Modelfile").read_text()
    ids = AutoTokenizer.from_pretrained(out)("reverse 12:", return_tensors="pt", add_special_tokens=False)["input_ids"]
    found = AutoModelForCausalLM.from_pretrained(out).generate(ids, max_new_tokens=20)[0].tolist()
    assert found == greedy(run / "model", "reverse 12:")


@pytest.mark.parametrize("name", [".", "here", "here/", "../w/here", "new/folder", "here/../other"])
def test_an_export_goes_into_the_folder_that_is_meant(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    if name != ".":
        Path("here").mkdir()
    wanted = Path(name).resolve()
    export_folder(run, Path(name), ollama=True, sampling=Sampling())
    assert {"config.json", "README.md", "Modelfile"} <= {file.name for file in wanted.iterdir()}
    assert f"# {wanted.name}\n" in (wanted / "README.md").read_text()
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(BadInput, match="is not empty; name a new one"):
        export_folder(run, Path(name), ollama=True, sampling=Sampling())


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(out: Path) -> str:
        with pytest.raises(BadInput) as caught:
            export_folder(run, out, ollama=False, sampling=Sampling())
        return str(caught.value)

    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out", Path("/proc/aha")):
        assert f"--out {out}: cannot be written (" in refused(out)
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert "and 1,000 are free there" in refused(tmp_path / "out")
    monkeypatch.undo()

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    assert (
        refused(tmp_path / "out")
        == f"--out {tmp_path / 'out'}: cannot be written (No space left on device); name another folder"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_model_without_a_run_keeps_its_own_chat_template(run: Path, tmp_path: Path):
    import shutil

    folder = shutil.copytree(run / "model", tmp_path / "own")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    out = export_folder(folder, tmp_path / "out", ollama=False, sampling=Sampling())
    assert (out / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}!"
    assert "How the model was trained is not known" in (out / "README.md").read_text()
    assert not (out / "Modelfile").exists()


def test_a_stage_of_a_recipe_is_exported_with_its_template_its_evaluations_and_its_chain(run: Path, tmp_path: Path):
    import shutil

    from rl.records import provenance

    stage = tmp_path / "stages" / "zero"
    (stage / "evals").mkdir(parents=True)
    shutil.copytree(run / "model", stage / "model")
    config = {"prompts.template": "{prompt}\n", "grpo.steps": "7"}
    provenance.write(stage, {"name": "zero", "kind": "GRPO", "key": "ab", "config": config}, [])
    for step, shares in ((0, [0.0, 1.0, 0.5, 0.0]), (7, [1.0, 1.0, 1.0, 0.0])):
        found = {"pass_at_1": sum(shares) / 4, "stderr": 0.2, "greedy": None, "correct_P": shares}
        (stage / "evals" / f"step_{step:06d}.json").write_text(json.dumps(found))
    out = export_folder(stage, tmp_path / "out", ollama=True, sampling=Sampling())
    card = (out / "README.md").read_text()
    assert "| pass@1, sampled, ± standard error | 37.5 ± 20.0 | 75.0 ± 20.0 |" in card
    assert "Gain: +37.5 points, standard error 23.9." in card
    assert "1. zero (GRPO), key ab" in card
    assert "grpo.steps = 7" in card
    assert '{{ "\\n" }}' in (out / "chat_template.jinja").read_text()
    assert provenance.read(out)[-1]["name"] == "zero"


@pytest.mark.parametrize("own", ["", "{% for m in messages %}- {{ m['content'] }}{% endfor %}"], ids=["base", "chat"])
def test_a_stage_that_learnt_bare_text_is_exported_without_a_template_of_ours(run: Path, tmp_path: Path, own: str):
    import shutil

    from transformers import AutoTokenizer

    from rl.records import provenance

    stage = tmp_path / "base"
    shutil.copytree(run / "model", stage / "model")
    if own:
        (stage / "model" / "chat_template.jinja").write_text(own)
    config = {"sft.data.template": "r1_zero", "sft.data.text_field": "text"}
    provenance.write(stage, {"name": "base", "kind": "SFT", "key": "ab", "config": config}, [])
    out = export_folder(stage, tmp_path / "out", ollama=True, sampling=Sampling())
    assert (AutoTokenizer.from_pretrained(out).chat_template or "") == own
    assert "Assistant" not in (out / "Modelfile").read_text()
    asked = export_folder(stage, tmp_path / "asked", ollama=True, sampling=Sampling(), template="r1_zero")
    assert "Assistant" in AutoTokenizer.from_pretrained(asked).chat_template


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """A stage: SFT of a base, RL, and a second base taught by the RL's samples. Bases: a Hub id's and a folder's."""
    from rl.data.content_hash import path_hash
    from rl.records import provenance

    def record(name: str, kind: str, config: dict[str, str], before: list[str], base: str = "", local: bool = False):
        folder = tmp_path / name
        folder.mkdir()
        inputs = {base: "a folder's content" if local else path_hash(base)} if base else {}
        provenance.write(
            folder, {"name": name, "kind": kind, "key": name, "seed": 5, "config": config, "inputs": inputs},
            [tmp_path / n for n in before],
        )  # fmt: skip
        return folder

    record("cold", "SFT", {"model": "models/large", "sft.data.source": "data/x.jsonl"}, [], "models/large", local=True)
    test_set = {"evaluation.data.source": "org/held-out", "prompts.source": "org/problems"}
    record("zero", "GRPO", {"model": "@cold", **test_set}, ["cold"])
    record("picks", "Reject", {"model": "@zero", "prompts.source": "recipes.r1_tasks:mini_train"}, ["zero"])
    parts = {
        "mix.parts.0.data.source": "@picks",
        "mix.parts.1.data.source": "org/chat",
        "mix.against.0.source": "org/no",
    }
    record("mixed", "Mix", parts, ["picks"])
    student = {"model": "Qwen/Qwen2.5-7B", "sft.data.source": "@mixed", "sft.eval_data.source": "org/no"}
    record("student", "SFT", student, ["mixed"], "Qwen/Qwen2.5-7B")
    return record("final", "GRPO", {"model": "@student", "prompts.source": "org/problems"}, ["student"])


def test_the_card_of_a_stage_names_its_base_and_data_sets_of_the_hub_from_the_chain(final: Path):
    from rl.export.model_card import model_card

    card = model_card(final, None, "x")
    front = card.split("---")[1].strip().splitlines()
    assert front[3:] == ["base_model: Qwen/Qwen2.5-7B", "datasets:", "- org/problems", "- org/chat"]
    assert "## How it was made\n\n- Base model: `Qwen/Qwen2.5-7B`\n" in card
    assert "- Its weights went through: student (SFT), final (GRPO)\n" in card
    assert "- Stages behind it: 6, listed under Provenance\n" in card
    assert "- Data sets of the Hub: `org/problems`, `org/chat`\n" in card
    assert "- Seed: 5\n" in card


def test_a_folder_on_someones_disk_is_no_base_model_of_the_hub(final: Path):
    from rl.export.model_card import model_card

    card = model_card(final.parent / "zero", None, "x")
    assert "base_model" not in card  # models/large looks like a Hub id, but was a folder when the stage ran
    assert "- Base model: `models/large`\n" in card
    assert "\ndatasets:\n- org/problems\n---" in card


def test_an_export_stage_makes_the_folder_and_is_done_again_when_it_was_cut_short(run: Path, tmp_path: Path):
    from rl.config import RunConfig
    from rl.recipe import Export, Recipe
    from rl.workflow.run import run as run_stages

    def no_machines(cfg: RunConfig):
        raise AssertionError("an export needs no machines")

    recipe = Recipe("r", RunConfig(), (Export(name="out", model=str(run)),), out=str(tmp_path))
    folder = run_stages(recipe, no_machines, no_machines)
    assert {"README.md", "Modelfile", "model.safetensors", "chat_template.jinja"} <= {
        p.name for p in (folder / "model").iterdir()
    }
    (folder / "provenance.json").unlink()
    (folder / "model" / "README.md").unlink()
    assert (run_stages(recipe, no_machines, no_machines) / "model" / "README.md").exists()


def with_stops(run: Path, tmp_path: Path, stops: tuple[str, ...]) -> Path:
    source = shutil.copytree(run, tmp_path / "run")
    cfg = recipe()
    cfg = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, stop=stops))
    (source / "resolved.json").write_text(to_json(cfg))
    return export_folder(source, tmp_path / "out", ollama=True, sampling=Sampling())


def test_stop_texts_of_one_token_end_generation_everywhere(run: Path, tmp_path: Path):
    from transformers import AutoTokenizer, GenerationConfig

    out = with_stops(run, tmp_path, (":", "12", "<|end|>", "7"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids([":", "7"])]
    assert tokenizer.encode("12", add_special_tokens=False) != ids[:1]
    assert GenerationConfig.from_pretrained(out).eos_token_id == ids
    assert (out / "Modelfile").read_text().count("PARAMETER stop") == 4


def test_a_stages_stop_texts_are_read_from_its_record(run: Path, tmp_path: Path):
    from rl.records import provenance

    stage = tmp_path / "zero"
    shutil.copytree(run / "model", stage / "model")
    config = {"prompts.template": "{prompt}", "rollout.stop": str((":", "a b"))}
    provenance.write(stage, {"name": "zero", "kind": "GRPO", "key": "ab", "config": config}, [])
    out = export_folder(stage, tmp_path / "out", ollama=True, sampling=Sampling())
    colon = load_tokenizer(str(out)).convert_tokens_to_ids(":")
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"][-1] == colon
    assert 'PARAMETER stop "a b"' in (out / "Modelfile").read_text()
