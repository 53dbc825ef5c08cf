"""Makes a Hugging Face folder that others can load: weights, chat template, generation config, model card, Modelfile.

Weights and vocabulary are copied byte for byte. Older readers find the names that they know (rl/model/older_names.py).
"""

from __future__ import annotations

import ast
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rl.config import DataConfig, RunConfig
from rl.data.templates import CHAT, ENDS_A_SENTENCE, TEMPLATES, check_template, end_token_ids, prompt_prefix
from rl.export.model_card import model_card
from rl.export.ollama import adds_begin_token, modelfile
from rl.model.older_names import complete
from rl.model.pretrained import load_config, load_tokenizer, positions
from rl.records import provenance
from rl.records.provenance import FILE
from rl.settings.chat_template import chat_day, set_template, the_template
from rl.settings.overrides import from_json
from rl.types import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEFT_BEHIND = ("chat_template.jinja", "generation_config.json", "README.md", "Modelfile")
"""Files that are not copied, because the export writes its own."""


@dataclass(frozen=True)
class Sampling:
    """Default sampling settings for users of the model. R1's authors recommend 0.6 and 0.95 (their README).
    Temperature 0: the likeliest token each time.
    """

    temperature: float = 0.6
    top_p: float = 0.95

    def check(self) -> None:
        """Raise BadInput for a value that no reader of the folder takes."""
        if not 0 <= self.temperature < math.inf:
            raise BadInput(
                f"--temperature {self.temperature:g}: must be at least 0; 0 takes the likeliest token each time"
            )
        if not 0 < self.top_p <= 1:
            raise BadInput(f"--top-p {self.top_p:g}: must be more than 0 and at most 1")


@dataclass(frozen=True)
class Source:
    """What is exported. folder: the model's. run: the folder of its run or stage, or else the model's. cfg: the run's
    settings; None for a stage or a model. template: the prompt template of the training; "" when it is not known.
    bare: whether it was trained on text without a template. stop: texts that ended its samples, beside
    the end tokens.
    """

    folder: Path
    run: Path
    cfg: RunConfig | None
    template: str
    bare: bool = False
    stop: tuple[str, ...] = ()


def export_folder(source: Path, out: Path, *, ollama: bool, sampling: Sampling, template: str = "") -> Path:
    """Write the folder `out` from a run's folder or a Hugging Face folder, whole or not at all. Returns out.

    template: a prompt template as in DataConfig. "" takes the run's, or else the model's own chat template. A model
    that was trained on bare text may have neither, and then gets none.
    Raises BadInput when source holds no model, and when out is not empty, cannot be written, or has no room.
    """
    sampling.check()
    found = find_source(source)
    tokenizer = load_tokenizer(str(found.folder))
    template = template or found.template
    data = DataConfig(template=template) if template and template != CHAT else None
    own = "" if data else the_template(tokenizer)
    if data:
        check_template(data, tokenizer)
    elif template == CHAT or not (own or found.bare):
        check_template(DataConfig(template=CHAT), tokenizer)
    tokenizer.chat_template = chat_template(data, tokenizer) if data else own or None
    with _whole_folder(out, found.folder) as partial:
        _copy(found, partial, others=data is None)
        if tokenizer.chat_template:
            _write_chat_template(partial, tokenizer.chat_template)
        _write_generation_config(partial, found, tokenizer, sampling)
        (partial / "README.md").write_text(model_card(found.run, found.cfg, out.resolve().name), encoding="utf-8")
        if ollama:
            (partial / "Modelfile").write_text(_modelfile(partial, found, data, tokenizer, sampling), encoding="utf-8")
    return out


@contextmanager
def _whole_folder(out: Path, model: Path) -> Iterator[Path]:
    """Yield a folder beside `out` to write to, which becomes `out` when the block ends and is removed when it fails.

    model: what is copied there; without room for it nothing is begun. Raises BadInput, for a full disk too.
    """
    final = out.resolve()  # "." has no name
    partial = final.with_name(final.name + ".partial")
    try:
        if final.exists() and any(final.iterdir()):
            raise BadInput(f"--out {out}: this folder is not empty; name a new one")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        needed = sum(file.stat().st_size for file in model.iterdir() if file.is_file())
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise BadInput(
                f"--out {out}: the model has {needed:,} bytes, and {free:,} are free there; name another folder"
            )
        yield partial
        if final.exists():  # empty; the user may be in it, so it stays and is filled
            for file in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
                file.rename(final / file.name)
        else:
            partial.rename(final)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(found: Source, folder: Path, *, others: bool) -> None:
    """Copy the model and the records of its run. others: its other chat templates too (for tools, say)."""
    for file in sorted(found.folder.iterdir()):
        if file.is_file() and file.name not in LEFT_BEHIND:
            shutil.copyfile(file, folder / file.name)
    more = found.folder / "additional_chat_templates"
    if others and more.is_dir():
        shutil.copytree(more, folder / more.name)
    complete(folder)
    for name in ("resolved.json", FILE):
        if (found.run / name).is_file():
            shutil.copyfile(found.run / name, folder / name)


def _modelfile(
    folder: Path, found: Source, data: DataConfig | None, tokenizer: PreTrainedTokenizerBase, sampling: Sampling
) -> str:
    context = positions(load_config(str(found.folder)))
    ends = (tokenizer.decode([end]) for end in end_token_ids(tokenizer))
    if tokenizer.chat_template is None:
        data = DataConfig(template="plain")  # a Modelfile needs a template: the text as it is
    elif data is None:  # a Modelfile has no clock: it shows the day of the training
        set_template(tokenizer, chat_day(found.cfg.model.chat_date if found.cfg else "auto"))
    return modelfile(
        data, tokenizer, (*ends, *found.stop), sampling.temperature, sampling.top_p, context,
        adds_begin=adds_begin_token(folder),
    )  # fmt: skip


def find_source(source: Path) -> Source:
    """Find out what the folder is: a run (model/, resolved.json), a stage (model/, provenance.json), or a model
    (config.json). Raises BadInput for anything else.
    """
    folder = source / "model" if (source / "model" / "config.json").is_file() else source
    if not (folder / "config.json").is_file():
        raise BadInput(f"{source}: holds no model, neither config.json nor model/config.json; has the run ended?")
    known = ("resolved.json", FILE)
    run = next((p for p in (source, folder.parent) if any((p / name).is_file() for name in known)), source)
    if (run / "resolved.json").is_file():
        cfg = from_json((run / "resolved.json").read_text(encoding="utf-8"))
        return Source(folder, run, cfg, cfg.prompts.template, stop=cfg.rollout.stop)
    config = provenance.read(run)[-1].get("config") if (run / FILE).is_file() else None
    settings = config if isinstance(config, dict) else {}
    if settings.get("sft.data.text_field"):
        return Source(folder, run, None, "", bare=True)
    template = str(settings.get("prompts.template") or settings.get("sft.data.template") or "")
    return Source(folder, run, None, template, stop=_texts(settings.get("rollout.stop")))


def _texts(value: object) -> tuple[str, ...]:
    """A tuple of texts from a setting as a stage's record has it: "('</answer>',)"."""
    try:
        found = ast.literal_eval(str(value or "()"))
    except (ValueError, SyntaxError):
        return ()
    return tuple(text for text in found if isinstance(text, str)) if isinstance(found, tuple | list) else ()


def chat_template(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt template as a chat template. A user's message becomes the prompt of training, token for token.

    After an assistant's message comes the end token. System messages are refused, because training had none.
    """
    text = TEMPLATES.get(data.template, data.template)
    question, stop = "message['content']", ""
    if data.template == "r1_zero":
        # Like rl.data.templates.render: no full stop after a question that ends in punctuation.
        text = text.replace("{prompt}.", "{prompt}")
        question = "message['content'].rstrip()"
        stop = f"{{{{ '' if {question}[-1:] in {_literal(''.join(ENDS_A_SENTENCE))} else '.' }}}}"
    pieces = [f"{{{{ {_literal(piece)} }}}}" if piece else "" for piece in text.split("{prompt}")]
    prompt = (f"{{{{ {question} }}}}" + stop).join(pieces)
    begin = "{{ bos_token }}" if prompt_prefix(data, tokenizer) else ""
    return (
        begin
        + "{% for message in messages %}{% if message['role'] == 'user' %}"
        + prompt
        + "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        + "{% else %}{{ raise_exception('this model was trained without ' + message['role'] + ' messages') }}"
        + "{% endif %}{% endfor %}"
    )


def _literal(text: str) -> str:
    """A text as Jinja writes it in quotes. Beyond ASCII it stays as it is: Jinja makes two halves of a character of the
    two escapes that JSON has for an emoji.
    """
    return json.dumps(text, ensure_ascii=False)


def _write_chat_template(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = folder / "tokenizer_config.json"
    if path.is_file():  # older folders have a template here too, which could differ
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("chat_template", None) is not None:
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_generation_config(
    folder: Path, source: Source, tokenizer: PreTrainedTokenizerBase, sampling: Sampling
) -> None:
    path = source.folder / "generation_config.json"
    config: dict[str, object] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if sampling.temperature:
        config |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    else:  # transformers samples at no temperature of 0, and warns of settings that greedy decoding ignores
        config = {k: v for k, v in config.items() if k not in ("temperature", "top_p", "top_k", "min_p", "typical_p")}
        config["do_sample"] = False
    # A stop text of one token ends generation everywhere, not only where texts are looked for.
    stops = (cast("list[int]", tokenizer.encode(text, add_special_tokens=False)) for text in source.stop)
    config["eos_token_id"] = list(dict.fromkeys([*end_token_ids(tokenizer), *(s[0] for s in stops if len(s) == 1)]))
    if tokenizer.pad_token_id is not None:
        config["pad_token_id"] = tokenizer.pad_token_id
    if source.cfg:
        config["max_new_tokens"] = source.cfg.rollout.max_new_tokens
    config.pop("_from_model_config", None)
    (folder / "generation_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
