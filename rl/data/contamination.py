"""Finds evaluation problems that the training rows contain, by R1's match of 10-grams (V2 D.1). A formula counts as one
word, and a short problem is found where it is a sentence of its own (rewards/overlap.py). It misses paraphrases.

Only the n-grams of the problems, which are few, are kept in memory. The training rows, which are many, are read once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rewards.filters import CONTAMINATION_NGRAM, telling_ngrams, word_ngrams
from rewards.overlap import Finder, problem_ngrams, words_of
from rl.config import DataConfig, RunConfig
from rl.data.rows import load_rows
from rl.types import BadInput, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contamination:
    """problems: index of a problem that was found -> the words that it shares with a training text.

    training_rows: training texts that share words with a problem. num_problems, num_rows: how many were compared.
    unseen: problems that cannot be found, because none of their words are their own.
    """

    problems: dict[int, str]
    training_rows: int
    num_problems: int
    num_rows: int
    unseen: int = 0

    @property
    def share(self) -> float:
        return len(self.problems) / self.num_problems if self.num_problems else 0.0

    def report(self) -> str:
        """One line: how many problems were found, up to three of them with the words that they share, and what a match
        of words cannot find.
        """
        unseen = "paraphrases, translations, other numbers or names are not found"
        if self.unseen:
            unseen += f", nor are {self.unseen} problems that have no words of their own"
        if not self.problems:
            return (
                f"none of {self.num_problems} evaluation problems shares {CONTAMINATION_NGRAM} words in a row with the "
                f"{self.num_rows} training texts ({unseen})"
            )
        shown = "; ".join(f"problem {i + 1}: {words[:100]!r}" for i, words in list(self.problems.items())[:3])
        return (
            f"{len(self.problems)} of {self.num_problems} evaluation problems share {CONTAMINATION_NGRAM} words in a "
            f"row (or all, where they are shorter) with {self.training_rows} of {self.num_rows} training texts: "
            f"{shown} ({unseen})"
        )


def find_contamination(problems: Sequence[str], training: Iterable[str]) -> Contamination:
    """Compare the n-grams of the problems with those of the training texts.

    Words that many problems share, such as their common instruction, do not count (rewards.filters.telling_ngrams).

    ["What is 1 + 2?"], ["what is 1 + 2"] -> problem 0
    """
    words_P = list(map(words_of, problems))
    ngrams_P = [problem_ngrams(words, CONTAMINATION_NGRAM) for words in words_P]
    telling = telling_ngrams(ngrams_P)
    finder = Finder(words_P, telling, CONTAMINATION_NGRAM)
    shared: dict[int, str] = {}
    num_rows = hits = 0
    for text in training:
        num_rows += 1
        found = finder.find(text)
        hits += bool(found)
        shared |= found
    found_P = {
        i: _shown([shared[ngram] for ngram in both], problems[i])
        for i, ngrams in enumerate(ngrams_P)
        if (both := shared.keys() & ngrams)
    }
    unseen = sum(telling.isdisjoint(ngrams) for ngrams in ngrams_P)
    return Contamination(found_P, hits, len(problems), num_rows, unseen)


def _shown(shared: list[str], problem: str) -> str:
    """The first n-gram that it shares; of a short problem, its words."""
    first = min(shared)
    return first if first.count(" ") + 1 == CONTAMINATION_NGRAM else " ".join(min(word_ngrams(problem)))


def check_contamination(problems: Sequence[str], training: Iterable[str], policy: str, where: str) -> Contamination:
    """find_contamination, and log its report. policy "error" raises BadInput when a problem was found; "warn" does not.

    Raises BadInput, too, when there is no training text at all: a report of no match would then mean nothing.
    """
    found = find_contamination(problems, training)
    if not found.num_rows:
        raise BadInput(f"{where}: the training rows contain no text, so nothing was compared; are they the right ones?")
    if policy == "error":
        _raise_if_found(found, where)
    log.log(logging.WARNING if found.problems else logging.INFO, "%s: %s", where, found.report())
    return found


def _raise_if_found(found: Contamination, where: str) -> None:
    if found.problems:
        raise BadInput(
            f"{where}: {found.report()}. Remove them from either dataset, or set evaluation.contamination=warn"
        )


def check_run(cfg: RunConfig, trained_on: Sequence[DataConfig] = ()) -> list[Contamination]:
    """Look for the evaluation's problems in all data that train the model. Returns one result for each dataset.

    These are the run's own prompts and SFT examples, and trained_on: the data of earlier stages.
    Raises BadInput when evaluation.contamination=error and a problem was found.
    """
    held_out, policy = cfg.evaluation.data, cfg.evaluation.contamination
    sources = [*trained_on, *([cfg.prompts] if cfg.prompts.source and cfg.grpo.steps else [])]
    sources += [cfg.sft.data] if cfg.sft.enabled and cfg.sft.data.source else []
    if policy == "off" or not held_out.source:
        return []
    found = {data.source: _compare(held_out, data) for data in dict.fromkeys(sources)}
    if policy == "error":
        for source, one in found.items():
            _raise_if_found(one, f"{held_out.source} in {source}")
    return list(found.values())


@functools.lru_cache(maxsize=1024)
def _compare(held_out: DataConfig, training: DataConfig) -> Contamination:
    # Cached: several stages may evaluate one model or train on one dataset, and one warning about it is enough.
    problems = [_text(row, held_out.prompt_field) for row in load_rows(held_out)]
    where = f"{held_out.source} in {training.source}"
    return check_contamination(problems, training_texts(training), "warn", where)


def training_texts(data: DataConfig) -> Iterator[str]:
    """All texts of the training rows that the model sees."""
    return (text for row in load_rows(data) for text in shown_texts(row, data))


def shown_texts(row: Row, data: DataConfig) -> list[str]:
    """The texts of a training row that the model sees, one by one, so that a short problem is found as a whole."""
    messages = row.get(data.messages_field) if data.messages_field else None
    if isinstance(messages, list | tuple):
        return [str(m.get("content", "")) for m in messages if isinstance(m, dict)]
    fields = (data.text_field,) if data.text_field else (data.prompt_field, data.target_field)
    return [text for field in fields if (text := _text(row, field))]


def every_text(data: DataConfig) -> Iterator[str]:
    """All texts of the rows, in any column and at any depth (messages): for data without settings for their columns."""
    return (text for row in load_rows(data) for text in _texts_in(row))


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)


def _text(row: Row, field: str) -> str:
    value = row.get(field)
    return value if isinstance(value, str) else ""
