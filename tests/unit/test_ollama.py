"""The Modelfile of an export: what Ollama sees is what training rendered, as its parser reads it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from recipes.tiny import recipe
from recipes.tiny_model import make
from rl.config import DataConfig
from rl.data.templates import render
from rl.export.folder import Sampling, export_folder
from rl.export.ollama import chat_turns, go_template, modelfile, text_turns
from rl.settings.overrides import to_json
from rl.types import BadInput


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, its weights random."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    make(folder / "model", tie=True)
    (folder / "resolved.json").write_text(to_json(recipe()))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    return export_folder(run, run.parent / "out", ollama=True, sampling=Sampling())


def exported_from(run: Path, tmp_path: Path, **config: object) -> Path:
    """The export of a stage whose model has these settings in its tokenizer_config.json."""
    folder = shutil.copytree(run / "model", tmp_path / "model")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}:"
    (folder / "chat_template.jinja").write_text(template)
    return export_folder(folder, tmp_path / "out", ollama=True, sampling=Sampling())


@pytest.mark.parametrize(("adds", "opening"), [(None, "<|end|>"), (False, "<|end|>"), (True, "")])
def test_a_modelfile_keeps_the_first_special_token_unless_ollama_adds_it(run: Path, tmp_path: Path, adds, opening):
    out = exported_from(run, tmp_path, bos_token="<|end|>", add_bos_token=adds)
    assert f'{{{{ $open := "{opening}" }}}}' in (out / "Modelfile").read_text()


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("adds", [False, True, None])
def test_a_prompt_begins_in_ollama_as_in_training_once(make_byte_tokenizer, begin: bool, adds: bool | None):
    """begin: whether the tokenizer puts the begin token before any text; adds: whether Ollama will."""
    tokenizer = make_byte_tokenizer(begin=begin)
    runtime = "<s>" if (begin if adds is None else adds) else ""

    def opening(data: DataConfig | None) -> str:
        text = modelfile(data, tokenizer, (), 1.0, 1.0, 8, adds_begin=adds)
        return runtime + json.loads(re.search(r"\$open := (\".*?\") ", text)[1])

    assert opening(None) == "<s>user\n"
    own = opening(DataConfig(template="Q: {prompt}"))
    assert own == ("<s>Q: " if begin or runtime else "Q: ")
    tokenizer.chat_template = tokenizer.chat_template.replace("'<s>'", "'<u>'")
    assert opening(None) == runtime + "<u>user\n"
    told = modelfile(None, make_byte_tokenizer(begin=begin), (), 1.0, 1.0, 8, adds_begin=adds)
    before = re.search(r'if eq .Role "system" }}(.*?){{ .Content', told, re.DOTALL)[1]
    assert runtime + before == "<s>system\n"


def unquoted(text: str) -> str:
    """A value as Ollama's parser reads it: quotes go, nothing is an escape."""
    quotes = '"""' if text.startswith('"""') else '"'
    assert text.startswith(quotes)
    assert text.endswith(quotes)
    return text[len(quotes) : -len(quotes)]


@pytest.mark.parametrize(
    "stop", ["</answer>", "\n", "\n\nUser:", 'say "so"', "back\\slash", "\\n", "🙂", " a ", 'ends in "']
)
def test_a_stop_text_is_written_as_ollama_reads_it(make_byte_tokenizer, stop: str):
    text = modelfile(DataConfig(template="plain"), make_byte_tokenizer(), (stop,), 1.0, 1.0, 8)
    (value,) = re.findall(r"PARAMETER stop (.*?)\nPARAMETER temperature", text, re.DOTALL)
    assert unquoted(value) == stop


@pytest.mark.parametrize("stop", ['a """ b', "\x1b", "\u200d"])
def test_a_stop_text_that_a_modelfile_cannot_hold_is_refused(make_byte_tokenizer, stop: str):
    with pytest.raises(BadInput, match="cannot hold"):
        modelfile(DataConfig(template="plain"), make_byte_tokenizer(), (stop,), 1.0, 1.0, 8)


@pytest.mark.parametrize("template", ["🙂 {prompt} 👩‍🔬\n", "\x1b{prompt}\u200d\xa0", 'Q "{prompt}"\\n\t'])
def test_emoji_and_escapes_reach_ollama_whole(make_byte_tokenizer, template: str):
    tokenizer, data = make_byte_tokenizer(), DataConfig(template=template)
    text = modelfile(data, tokenizer, (), 1.0, 1.0, 8)
    seen = "".join(c for c in text if c.isprintable() or c in "\n\t")  # Ollama's parser drops the others
    assert seen == text
    found = re.search(r'TEMPLATE """(.*?)"""\n', text, re.DOTALL)[1]
    quoted = r'("(?:[^"\\]|\\.)*") '
    parts = (re.search(start + quoted, found)[1] for start in (r"\$open := ", r'"user" .*?\$turn = '))
    opened, after = (json.loads(re.sub(r"\\U0000(....)", r"\\u\1", part)) for part in parts)
    assert opened + "Why?" + after == render("Why?", data, tokenizer)


def go(template: str, messages: list[dict[str, str]]) -> str:
    """A reader of the few forms of Go's template language that a Modelfile of ours uses."""
    from jinja2 import Environment

    forms = [
        (r'\{\{ \$open := (.*?) \}\}\{\{ \$turn := "" \}\}', r'{% set ns = namespace(open=\1, turn="") %}'),
        (r"\{\{ range \.Messages \}\}", "{% for m in messages %}"),
        (r'\{\{ if eq \.Role ("\w+") \}\}', r"{% if m.role == \1 %}"),
        (r"\{\{ \$(open|turn) = (.*?) \}\}", r"{% set ns.\1 = \2 %}"),
        (r"\{\{ \$(open|turn) \}\}", r"{{ ns.\1 }}"),
        (r"\{\{ if \.Thinking \}\}", "{% if m.thinking %}"),
        (r"\{\{ if false \}\}", "{% if false %}"),
        (r"\{\{ \.Thinking \}\}", "{{ m.thinking }}"),
        (r"\{\{ \.Content \}\}", "{{ m.content }}"),
    ]  # fmt: skip
    assert template.endswith("{{ end }}{{ $turn }}")
    text = template.removesuffix("{{ end }}{{ $turn }}") + "{% endfor %}{{ $turn }}"
    for pattern, replacement in forms:
        text = re.sub(pattern, replacement, text)
    text = text.replace("{{ end }}", "{% endif %}")
    assert not re.search(r"\{\{ (?!ns\.(open|turn)|m\.)", text), text
    return Environment(keep_trailing_newline=True).from_string(text).render(messages=messages)


def test_ollama_sees_the_prompts_of_training(make_byte_tokenizer):
    tokenizer = make_byte_tokenizer()
    for template in ("plain", "{prompt}\n", "r1_zero"):
        data = DataConfig(template=template)
        text = go_template(text_turns(data, "</s>"))
        for question in ("What is 1 + 2?", "Count to 3."):
            assert go(text, [{"role": "user", "content": question}]) == render(question, data, tokenizer)


def test_ollama_sees_what_the_chat_template_renders(tokenizer):
    question, again = {"role": "user", "content": "Why?"}, {"role": "user", "content": "How?"}
    answer, system = {"role": "assistant", "content": "So."}, {"role": "system", "content": "Be brief."}
    text = go_template(chat_turns(tokenizer))
    for chat in ([question], [system, question], [question, answer, again], [system, question, answer, again]):
        wanted = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert go(text, chat) == wanted
    thought = {**answer, "thinking": "hm"}
    assert "<think>hm</think>So." in go(text, [question, thought, again])


THINKS = {
    "no end of line": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|U|>' + m['content'] }}"
        "{% else %}{{ '<|A|>' + m['content'].split('</think>')[-1] + '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|A|><think>\n' }}{% endif %}"
    ),
    "marked turns": (
        "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'].split('</think>')[-1].lstrip() + '</s>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n<think>\n' }}{% endif %}"
    ),
    "none": (
        "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", THINKS)
def test_a_thought_is_opened_for_the_next_answer_and_kept_of_past_ones_only_as_the_chat_template_does(
    make_byte_tokenizer, kind: str
):
    tokenizer = make_byte_tokenizer(chat=THINKS[kind])
    text = go_template(chat_turns(tokenizer))
    thoughts, said = ["Hm.", "", "Ah."], ["One", "Two", "Three"]
    full, split = [], []  # as transformers and as Ollama keep a chat
    for number, (thought, answer) in enumerate(zip(thoughts, said, strict=True)):
        question = {"role": "user", "content": f"Question {number}?"}
        full, split = [*full, question], [*split, question]
        assert go(text, split) == tokenizer.apply_chat_template(full, tokenize=False, add_generation_prompt=True)
        full.append({"role": "assistant", "content": (f"<think>{thought}</think>" if thought else "") + answer})
        split.append({"role": "assistant", "content": answer, "thinking": thought})
    assert "<think>{{ .Thinking }}</think>" in text  # by this Ollama knows that the model thinks


def test_ollama_goes_on_with_an_answer_that_was_begun(tokenizer):
    begun = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}]
    assert go(go_template(chat_turns(tokenizer)), begun) == "<s>user\nWhy?</s>\n<s>assistant\nBecause"


def test_a_modelfile_names_the_folder_the_stops_and_the_sampling(exported: Path, make_byte_tokenizer):
    lines = (exported / "Modelfile").read_text().splitlines()
    assert "FROM ." in lines
    assert 'PARAMETER stop "<|end|>"' in lines
    assert "PARAMETER temperature 0.6" in lines
    assert "PARAMETER num_ctx 256" in lines
    assert any("<think>{{ .Thinking }}</think>" in line for line in lines)
    begins = make_byte_tokenizer(begin=True)
    begins.chat_template = "{{ bos_token }}" + begins.chat_template
    text = modelfile(None, begins, ("</s>", "</s>", "x"), 1.0, 1.0, 8)
    assert text.count("PARAMETER stop") == 2
    assert '{{ $open := "<s>user\\n" }}' in text  # not begun twice
    for template in ("{prompt} {{x}}", "{prompt} {prompt}"):
        with pytest.raises(BadInput, match="Modelfile"):
            modelfile(DataConfig(template=template), begins, (), 1.0, 1.0, 8)
