"""Filters: which samples become training data. Plain predicates, each with its reason.

R1 keeps correct samples of several per prompt and drops chains of thought with mixed languages, long paragraphs and
code blocks (V1 2.3.3, V2 B.3.3); its cold start drops repetition too (V2 B.3.2). Its thresholds are not disclosed, so
none here has a default. Evaluation sets are kept out by 10-gram match against questions and solutions (V2 D.1).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from rewards.accuracy import accuracy
from rewards.extract import chain_of_thought
from rewards.language import language_consistency
from rewards.overlap import Finder, full_ngrams, problem_ngrams, words_of
from rewards.scripts import LANGUAGES
from rewards.shaping import length_of, repeated_share, units
from rewards.types import CORRECT, excerpt

CONTAMINATION_NGRAM = 10
"""R1, V2 D.1: 10-gram match. Its authors note that paraphrases are not caught."""
COMMON_TEXTS, COMMON_SHARE = 5, 0.02
"""An n-gram of so many evaluation texts, and of more than this share of them, is the wording of their task."""

_PARAGRAPH_END = re.compile(r"\n[ \t\r\f\v]*\n")
_FENCE = re.compile(r"^[ \t>]{0,8}(?:```|~~~)", re.MULTILINE)
_EDGES = "-–—=+/|~#&%@^.,;:!?\"'`()[]{}<>*_$，。、；：！？「」『』（）“”‘’"


class Check(NamedTuple):
    """Whether a sample may stay, and if not, why."""

    ok: bool
    reason: str = ""


PASSED = Check(True)


def is_correct(completion: str, *, prompt: str = "", answer: str) -> Check:
    """Its final answer is the reference, by rewards.accuracy. Raises ValueError for a row without a reference."""
    score = accuracy(completion, prompt=prompt, answer=answer)
    return PASSED if score.verdict == CORRECT else Check(False, f"{score.verdict}: {score.reason}")


def is_single_language(
    completion: str,
    *,
    min_share: float,
    prompt: str = "",
    question: str = "",
    language: object = "",
    languages: tuple[str, ...] = LANGUAGES,
) -> Check:
    """At least min_share of the chain's words are in one language, the one that the reward wants (rewards.language):
    `language`, else the question's, else the prompt's, else the main one.

    A chain without words passes: there is nothing to mix. min_share: see rewards.language.CONSISTENT for its error.
    """
    score = language_consistency(completion, prompt=prompt, question=question, language=language, languages=languages)
    if score.value >= min_share:  # 1 where there are no words
        return PASSED
    return Check(False, f"mixed languages: {score.reason}, {min_share} wanted")


def has_short_paragraphs(completion: str, *, max_words: int) -> Check:
    """No paragraph of the chain, between empty lines, has more than max_words (characters in scripts without spaces).

    "a b c\\n\\nd", max_words 2 -> dropped for its first paragraph
    """
    for number, paragraph in enumerate(_PARAGRAPH_END.split(chain_of_thought(completion)), start=1):
        count = len(units(paragraph))
        if count > max_words:
            return Check(False, f"paragraph {number} has {count} words, {max_words} allowed: {excerpt(paragraph)}")
    return PASSED


def has_no_code_block(completion: str) -> Check:
    """No line of the chain opens a fenced block (``` or ~~~). Code in the answer is not the chain's."""
    fence = _FENCE.search(chain_of_thought(completion))
    return Check(False, f"a code block in the chain, character {fence.start()}") if fence else PASSED


def is_not_repetitive(completion: str, *, max_share: float, ngram: int = CONTAMINATION_NGRAM) -> Check:
    """At most max_share of its n-grams occurred before in it (rewards.shaping.repeated_share)."""
    share = repeated_share(completion, ngram)
    if share <= max_share:
        return PASSED
    return Check(False, f"{share:.2f} of its {ngram}-grams are repeated, {max_share} allowed")


def has_length(
    completion: str, *, at_least: int = 0, at_most: int | None = None, completion_tokens: int | None = None
) -> Check:
    """Its length is within the bounds, both included: in tokens where they are given, else in whitespace words."""
    length = length_of(completion, completion_tokens)
    if length < at_least:
        return Check(False, f"{length} long, at least {at_least} wanted")
    if at_most is not None and length > at_most:
        return Check(False, f"{length} long, at most {at_most} allowed")
    return PASSED


class EvaluationIndex:
    """The n-grams of evaluation texts, to keep training data free of them (R1, V2 D.1: n = 10).

    Words are compared without case and outer punctuation, formulas however they are written (rewards/overlap.py); in
    scripts without spaces a word is a character. A question shorter than n words has no n-gram, and is found where it
    stands by itself; a solution so short ("yes") is nobody's own, and is not looked for. The wording that many texts
    share does not count (telling_ngrams).

        index = EvaluationIndex(["Janet's ducks lay 16 eggs per day. She eats three"])
        is_uncontaminated("... ducks lay 16 eggs per day she eats three ...", index) -> dropped
    """

    def __init__(
        self, questions: Iterable[str], solutions: Iterable[str] = (), *, ngram: int = CONTAMINATION_NGRAM
    ) -> None:
        if ngram < 1:
            raise ValueError(f"ngram is {ngram}; it is a number of words, at least 1")
        words_Q, words_S = ([words_of(text) for text in texts] for texts in (questions, solutions))
        found_Q = [problem_ngrams(words, ngram) for words in words_Q]
        found_S = [full_ngrams(words, ngram) for words in words_S]
        self._seen = telling_ngrams([*found_Q, *found_S])
        self._finder = Finder([*words_Q, *words_S], self._seen, ngram)

    def __len__(self) -> int:
        """n-grams in the index, short questions included."""
        return len(self._seen)

    def overlap(self, text: str) -> str:
        """The first n-gram that the text shares with an evaluation text, "" when there is none."""
        return next(iter(self._finder.find(text).values()), "")


def is_uncontaminated(text: str, index: EvaluationIndex) -> Check:
    """It shares no n-gram with an evaluation text. Check the prompt as well as the completion, each by itself."""
    shared = index.overlap(text)
    return Check(False, f"also in an evaluation text: {excerpt(shared)}") if shared else PASSED


def word_ngrams(text: str, ngram: int = CONTAMINATION_NGRAM) -> set[tuple[str, ...]]:
    """The n-grams of bare lower-case words; of a shorter text itself, as a whole.

    "What is 1 + 2?" -> {("what", "is", "1", "2")}
    """
    words = _bare_words(text)
    return set(_ngrams(words, min(ngram, len(words)))) if words else set()


def telling_ngrams(ngrams_T: Sequence[Set[int]]) -> set[int]:
    """The n-grams that tell one of T evaluation texts from another; ngrams_T: those of each (rewards/overlap.py).

    What many share is the wording of the task ("Using the numbers ..., write an equation"), not a problem. Texts that
    are alike count once: a set that lists each problem eight times has no such wording by that.
    """
    distinct = {frozenset(ngrams) for ngrams in ngrams_T if ngrams}
    telling: set[int] = set()
    again: Counter[int] = Counter()  # of few: sets are joined in less time than all is counted
    for ngrams in distinct:
        again.update(ngrams & telling)
        telling |= ngrams
    common = max(COMMON_TEXTS, COMMON_SHARE * len(distinct) + 1)
    telling.difference_update(ngram for ngram, count in again.items() if count + 1 >= common)
    return telling


def _bare_words(text: str) -> list[str]:
    return [bare for word in units(text) if (bare := word.strip(_EDGES))]


def _ngrams(words: list[str], ngram: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(ngram)), strict=False)
