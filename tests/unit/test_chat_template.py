"""rl/settings/chat_template.py: a run's chats show one day, and the one template of several that is meant."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path

import pytest

from launch.machine import settled
from recipes.tiny_model import make
from rl.config import DataConfig, RunConfig
from rl.data.templates import check_template, render
from rl.export.folder import Sampling, export_folder
from rl.model.pretrained import load_tokenizer
from rl.recipe import SFT, Recipe
from rl.scoring.reward_model_text import load_encoder
from rl.settings import chat_template
from rl.settings.chat_template import settle_chat_date, with_stopped_clock
from rl.settings.config_checks import validate
from rl.settings.overrides import apply_overrides, recipe_to_json, to_json
from rl.types import BadInput
from rl.workflow.inputs import prepare
from rl.workflow.one_folder import refuse_other_run
from rl.workflow.stage_keys import stage_keys
from tests.unit.classifiers import llama_classifier

LLAMA3 = (
    "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- else %}{%- set day = '26 Jul 2024' %}"
    "{%- endif %}{%- for m in messages %}{%- if loop.first %}Today Date: {{ day }}\n{% endif %}{{ m['content'] }}"
    "{%- endfor %}"
)
CHAT = DataConfig(template="chat")


class Calendar(datetime.date):
    """A calendar whose page can be turned."""

    page = datetime.date(2026, 11, 9)

    @classmethod
    def today(cls) -> datetime.date:
        return cls.page


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch):
    """turn(day): from now on it is that day."""
    monkeypatch.setattr(chat_template.datetime, "date", Calendar)
    return lambda *day: monkeypatch.setattr(Calendar, "page", datetime.date(*day))


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    """A run of the tiny model whose chat template has a clock."""
    from recipes.tiny import recipe

    make(tmp_path / "model", tie=True)
    (tmp_path / "model" / "chat_template.jinja").write_text(LLAMA3)
    tiny = recipe()
    chat = dataclasses.replace(tiny.prompts, template="chat", limit=2)
    model = dataclasses.replace(tiny.model, path=str(tmp_path / "model"), add_tokens=())
    return dataclasses.replace(
        tiny, out=str(tmp_path / "runs"), model=model, prompts=chat,
        sft=dataclasses.replace(tiny.sft, steps=0), evaluation=dataclasses.replace(tiny.evaluation, data=DataConfig()),
    )  # fmt: skip


def first_prompt(cfg: RunConfig) -> str:
    stream = prepare(cfg).stream
    assert stream is not None
    return stream.take(1)[0].text.splitlines()[0]


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%-d/%-m/%y, %A", "%H:%M:%S %p", "100%% of %%Y", "%j %U %B", "no day", "%x"]
)
def test_a_stopped_clock_writes_the_day_as_the_clock_does(form: str, make_byte_tokenizer):
    day = datetime.date(2026, 11, 9)
    tokenizer = make_byte_tokenizer(
        chat=with_stopped_clock(f"{{{{ strftime_now('{form}') }}}}|{{{{ messages[0]['content'] }}}}", day)
    )
    wanted = datetime.datetime.combine(day, datetime.time()).strftime(form)
    assert render("q", CHAT, tokenizer) == f"{wanted}|q"


def test_a_template_without_a_clock_is_left_as_it_is(tokenizer):
    assert with_stopped_clock(tokenizer.chat_template, datetime.date(2026, 11, 9)) == tokenizer.chat_template


def test_a_run_that_goes_on_another_day_renders_the_prompts_that_it_was_begun_with(cfg: RunConfig, turn):
    begun, _ = settled(cfg)
    assert isinstance(begun, RunConfig)
    assert first_prompt(begun) == "Today Date: 09 Nov 2026"
    begun.run_dir.mkdir(parents=True)
    (begun.run_dir / "resolved.json").write_text(to_json(begun))
    turn(2027, 1, 2)
    resumed, _ = settled(cfg)
    assert isinstance(resumed, RunConfig)
    refuse_other_run(resumed)
    assert first_prompt(resumed) == "Today Date: 09 Nov 2026"
    other, _ = settled(dataclasses.replace(cfg, name="other"))
    assert isinstance(other, RunConfig)
    assert first_prompt(other) == "Today Date: 02 Jan 2027"


def test_a_run_from_before_the_setting_goes_on(cfg: RunConfig, turn):
    cfg.run_dir.mkdir(parents=True)
    old = json.loads(to_json(cfg))
    del old["model"]["chat_date"]
    (cfg.run_dir / "resolved.json").write_text(json.dumps(old))
    now, _ = settled(cfg)
    assert isinstance(now, RunConfig)
    assert now.model.chat_date == "auto 2026-11-09"
    refuse_other_run(now)
    with pytest.raises(BadInput, match=r"holds a run with model.chat_date=auto, not 2026-11-09"):
        refuse_other_run(apply_overrides(cfg, ["model.chat_date=2026-11-09"]))


def test_the_stages_of_a_recipe_show_the_day_on_which_the_first_was_begun_and_keep_their_keys(cfg: RunConfig, turn):
    made = Recipe("r", cfg, (SFT("a", cfg.model.path, dataclasses.replace(cfg.sft, steps=1)),), out=cfg.out)
    begun, _ = settled(made)
    assert isinstance(begun, Recipe)
    assert begun.base.model.chat_date == "auto 2026-11-09"
    assert stage_keys(begun)["a"].key == stage_keys(made)["a"].key
    begun.folder.mkdir(parents=True)
    (begun.folder / "recipe.json").write_text(recipe_to_json(begun))
    turn(2027, 1, 2)
    assert settled(made)[0] == begun
    asked = dataclasses.replace(made, base=apply_overrides(cfg, ["model.chat_date=2027-01-02"]))
    assert stage_keys(asked)["a"].key != stage_keys(made)["a"].key


@pytest.mark.parametrize("value", ["today", "2026-13-01", "29.11.2026", "auto tomorrow", ""])
def test_a_day_that_is_none_is_refused(cfg: RunConfig, value: str):
    with pytest.raises(BadInput, match=r"model.chat_date=.*: must be auto, or a day like 2026-11-29"):
        validate(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, chat_date=value)))


def test_a_reward_model_reads_the_same_on_every_day(tmp_path: Path, turn):
    folder = llama_classifier(tmp_path / "rm", chat=LLAMA3)

    def read() -> str:
        encoder = load_encoder(str(folder))
        encoded = encoder.encode("why?", "so")
        assert encoded is not None
        return str(encoder.tokenizer.decode(encoded.token_ids))

    before = read()
    assert before == "Today Date: 01 Jan 2025\nwhy?so"
    turn(2027, 1, 2)
    assert read() == before


def test_an_export_keeps_the_clock_and_its_modelfile_shows_the_day_of_the_training(cfg: RunConfig, turn):
    begun = settle_chat_date(cfg)
    run = Path(cfg.model.path).parent
    (run / "resolved.json").write_text(to_json(begun))
    turn(2027, 1, 2)
    out = export_folder(run, run / "out", ollama=True, sampling=Sampling())
    assert (out / "chat_template.jinja").read_text() == LLAMA3
    assert "Today Date: 09 Nov 2026" in (out / "Modelfile").read_text()


# ------------------------------------------------------------------------------------------------ several templates


LOOP = "{% for m in messages %}NAME:{{ m['content'] }}{% endfor %}"
SEVERAL = {"default": LOOP.replace("NAME", "D"), "tool_use": LOOP.replace("NAME", "T")}


@pytest.fixture
def several(cfg: RunConfig) -> RunConfig:
    tokenizer = load_tokenizer(cfg.model.path)
    tokenizer.chat_template = SEVERAL
    tokenizer.save_pretrained(cfg.model.path)
    assert load_tokenizer(cfg.model.path).chat_template == SEVERAL
    return cfg


def test_of_several_chat_templates_the_default_is_meant_and_an_export_keeps_the_others(several: RunConfig):
    assert first_prompt(several).startswith("D:")
    run = Path(several.model.path).parent
    (run / "resolved.json").write_text(to_json(several))
    out = export_folder(run, run / "out", ollama=True, sampling=Sampling())
    assert load_tokenizer(str(out)).chat_template == SEVERAL
    assert "D:" in (out / "Modelfile").read_text()
    asked = export_folder(run, run / "asked", ollama=True, sampling=Sampling(), template="plain")
    assert "D:" not in str(load_tokenizer(str(asked)).chat_template)
    assert isinstance(load_tokenizer(str(asked)).chat_template, str)


def test_several_templates_without_a_default_are_refused_by_name_where_one_is_asked_for(
    make_byte_tokenizer, tmp_path: Path
):
    tokenizer = make_byte_tokenizer(chat={"rag": "R", "tool_use": "T"})
    with pytest.raises(BadInput, match=r"has the chat templates rag, tool_use, and none of them is called default"):
        check_template(CHAT, tokenizer)
    check_template(DataConfig(template="plain"), tokenizer)
    chat_template.set_template(tokenizer, datetime.date(2026, 11, 9))
    assert render("q", DataConfig(template="plain"), tokenizer) == "q"
    folder = llama_classifier(tmp_path / "rm", chat={"rag": "R", "tool_use": "T"})
    with pytest.raises(BadInput, match=r"rewards: model:.*none of them is called default"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    "fault", ["{{ 1 + messages[0]['content'] }}", "{{ messages[0]['content']|int + 'a' }}", "{{ nothing.at.all }}"]
)
def test_a_template_that_fails_is_named_as_such(make_byte_tokenizer, fault: str):
    with pytest.raises(BadInput, match="the tokenizer's chat template refused"):
        render("q", CHAT, make_byte_tokenizer(chat=fault))
