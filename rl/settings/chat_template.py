"""The chat template that a run renders with: one of several, and with its clock stopped. Importing it loads no torch.

Some templates show the day (strftime_now, as Llama 3's "Today Date"). A run shows the day on which it was begun,
whenever it resumes: otherwise it would go on with other prompts than those that it was begun with.
model.chat_date=auto becomes "auto 2026-11-29", which resolved.json and recipe.json keep.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING

from rl.config import RunConfig
from rl.types import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


AUTO, DEFAULT = "auto", "default"
CLOCK = "strftime_now"
REWARD_MODEL_DAY = datetime.date(2025, 1, 1)
"""What every reward model reads, in training and when it scores: a score must not depend on the day."""
DIRECTIVES = (*(f"%-{letter}" for letter in "dHIjmMSy"), *(f"%{letter}" for letter in "aAbBcdfHIjmMpSUwWxXyYzZ"))
"""Of strftime; the first form, without a zero in front, is that of Linux."""


def chat_day(text: str, today: datetime.date | None = None) -> datetime.date:
    """ "2026-11-29" and "auto 2026-11-29" -> that day; "auto" -> today. Raises ValueError for anything else."""
    asked, _, kept = text.partition(" ")
    if asked == AUTO and not kept:
        return today or datetime.date.today()
    return datetime.date.fromisoformat(kept if asked == AUTO else text)


def chat_date_fault(text: str) -> str:
    """What is wrong with a value of model.chat_date; "" for nothing."""
    try:
        chat_day(text)
    except ValueError:
        return f"model.chat_date={text}: must be auto, or a day like 2026-11-29"
    return ""


def settle_chat_date(cfg: RunConfig, begun_with: str = "") -> RunConfig:
    """The config with a day in place of auto: that of the run which the folder holds, or else today.

    begun_with: the value in the folder's record, "" for a new folder.
    """
    if cfg.model.chat_date != AUTO:
        return cfg
    kept = begun_with if begun_with.startswith(f"{AUTO} ") else f"{AUTO} {chat_day(AUTO).isoformat()}"
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, chat_date=kept))


def set_template(tokenizer: PreTrainedTokenizerBase, day: datetime.date) -> None:
    """Give the tokenizer the one template that is meant, with a clock that shows the day."""
    if isinstance(tokenizer.chat_template, dict) and DEFAULT not in tokenizer.chat_template:
        return  # templates of one's own need none of them; those who ask for one are told by the_template
    template = the_template(tokenizer)
    tokenizer.chat_template = with_stopped_clock(template, day) if template else None


def the_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template, the default one of several; "" when it has none.

    Raises BadInput when there are several and none is the default.
    """
    found: dict[str, str] | str | None = tokenizer.chat_template
    if isinstance(found, dict):
        if DEFAULT not in found:
            raise BadInput(
                f"the tokenizer has the chat templates {', '.join(sorted(found))}, and none of them is called "
                f"{DEFAULT}; name one of its files {DEFAULT}.jinja, or set template to a text with {{prompt}} in it"
            )
        return found[DEFAULT]
    return found or ""


def with_stopped_clock(template: str, day: datetime.date) -> str:
    """The chat template with a clock that stands at the beginning of the day. One without a clock is returned as it is.

    The clock becomes a macro that takes the place of the function: strftime_now("%d %b %Y") -> "29 Nov 2026".
    """
    if CLOCK not in template:
        return template
    at = datetime.datetime.combine(day, datetime.time())
    replaced = "".join(f"|replace('{name}', '{at.strftime(name)}')" for name in DIRECTIVES)
    # Two percent signs mean one, and what follows them is no directive.
    macro = f"{{{{ format|replace('%%', '\\x00'){replaced}|replace('\\x00', '%') }}}}"
    return f"{{%- macro {CLOCK}(format) -%}}{macro}{{%- endmacro -%}}{template}"
