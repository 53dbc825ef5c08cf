r"""Language consistency: how much of the chain of thought is in one language.

R1's reward (V2 eq. 7): words in the target language / words, over the chain of thought. R1 does not disclose its
language detector. Here scripts decide where they can; among languages of one script py3langid decides, for runs of at
most 10 words. Mathematics and code are taken out first, prose that hides in them is not.

A language is told apart from its relatives too (Swedish from Danish and Norwegian, Spanish from Catalan), whose texts
would else pass for it. Bokmål and Nynorsk count as one, Norwegian. Units behind a number, functions before their
argument and short names beside = or + belong to formulas, not to a language.

A script without spaces has no words to count: two characters of Chinese or Japanese, or four of Thai, Lao, Khmer or
Burmese, count as one. Japanese inside Chinese sentences stays hard: Han characters follow the kana of their sentence.
"""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from functools import lru_cache
from itertools import groupby
from typing import Any

from rewards.extract import chain_of_thought
from rewards.formulas import NAMES, in_a_formula
from rewards.prose import plain_text
from rewards.scripts import (
    KNOWN,
    LANGUAGES,
    LANGUAGES_OF,
    ONE_LETTER_IS_A_SYMBOL,
    SCRIPTS,
    WORDS_A_CHARACTER,
    language_code,
    relatives,
    row_language,
)
from rewards.types import CORRECT, WRONG, Score

CONSISTENT = 0.95
"""From this share on the verdict is "correct": on text mixed inside sentences the method errs by about .045."""

NO_WORDS = "no words left to count"
"""The reason where a text without words scores 1: count it, since a run full of such texts learns nothing here."""

_RUN = 8  # words that are classified together; up to 2 left over join them
_SENTENCE = 5  # from so many on, the end of a sentence ends a run
_SHORT_RUN = 3  # up to so many words, a lead of at most _DOUBT (log likelihood) tells nothing
_DOUBT = 6.0
_LONGEST_WORD = 40  # characters
_LONGEST_NAME = max(3, *map(len, NAMES))

_GAP = r"[ \t\d\"-\-/:-@\[-`{-~、，：；（）「」『』“”]"
_TOKEN = re.compile(
    r"(?:(?P<stop>[.!?\n。！？…]+)|"
    + "|".join(rf"(?P<{name}>[{chars}]+(?:['’ʼ][{chars}]+)*)" for name, (chars, _) in SCRIPTS.items())
    + rf"|(?P<other>[^\W\d_]+)|(?P<gap>{_GAP})){_GAP}*"
)


def language_consistency(
    completion: str,
    *,
    prompt: str = "",
    target: str = "",
    language: object = "",
    question: str = "",
    problem: str = "",
    languages: tuple[str, ...] = LANGUAGES,
    **columns: object,
) -> Score:
    r"""The share of the chain of thought's words that are in the target language, 0 to 1 (R1, V2 eq. 7).

    Settings: target, one language for all rows; languages, those told apart (the target and its relatives are, too).
    From the row: language; else it is the language of the question or problem, else of the prompt, else (where none has
    words) the one that the chain itself uses most. Codes ("zh", "zh-CN") or English names ("Chinese"); what else a
    row's column says, as "python", which code_accuracy reads there, does not count. Raises ValueError for a target that
    is none of KNOWN.

    The chain is all before the last </think>, or the whole completion. A chain without words does not excuse the
    answer: then the whole completion counts. No words at all: 1, with the reason NO_WORDS.

        "So 我们 add the numbers", target "en" -> 4 of 5 words, 0.8
    """
    languages = tuple(languages)  # a config may give a list
    wanted = language_code(target) if target else row_language(language)
    asked = (question or problem, prompt)
    wanted = wanted or next((found for text in asked if text and (found := main_language(text, languages))), "")
    chain = chain_of_thought(completion)
    counts = word_counts(chain, languages, target=wanted)
    text = chain
    if not counts and chain != completion:
        text = completion
        counts = word_counts(text, languages, target=wanted)
    total = sum(counts.values())
    if not total:
        return Score(1.0, CORRECT, NO_WORDS)
    if not wanted:
        wanted, counts = _by_its_own(text, languages, counts)
    found = wanted or max(sorted(counts), key=counts.__getitem__)
    value = min(1.0, counts.get(found, 0.0) / total)
    others = sorted((name for name in counts if name != found), key=counts.__getitem__, reverse=True)
    said = ", ".join(f"{name} {counts[name] / total:.2f}" for name in others[:3])
    reason = f"{found} {value:.2f} of {total:.0f} words" + (f"; {said}" if said else "")
    return Score(value, CORRECT if value >= CONSISTENT else WRONG, reason)


@lru_cache(maxsize=256)  # the samples of a group share their prompt
def main_language(text: str, languages: tuple[str, ...] = LANGUAGES) -> str:
    """The language of most of the text's words, "" when none can be told. It may be a relative of `languages`."""
    found = _most(word_counts(text, languages))
    return _most(word_counts(text, languages, target=found)) if len(relatives(found)) > 1 else found


def _by_its_own(text: str, languages: tuple[str, ...], counts: dict[str, float]) -> tuple[str, dict[str, float]]:
    """(main_language, the words by language with that one as the target). counts: the same without a target."""
    found = _most(counts)
    if not found:
        return "", counts
    again = word_counts(text, languages, target=found)
    if len(relatives(found)) == 1 or (main := _most(again)) == found:
        return found, again
    return main, word_counts(text, languages, target=main) if main else counts


def _most(counts: dict[str, float]) -> str:
    known = {name: count for name, count in counts.items() if name in KNOWN}
    return max(sorted(known), key=known.__getitem__, default="")


def word_counts(text: str, languages: tuple[str, ...] = LANGUAGES, *, target: str = "") -> dict[str, float]:
    """Words by language. Words of a script that none of `languages` or the target uses count under its name.

    With a target, languages of other scripts than its own are not told apart, which saves time. Runs that tell no
    language ("so", or two words that are nearly as likely in another) go with the rest of their script, and else with
    the target: a very short chain has the benefit of the doubt.
    """
    allowed = _told_apart(languages, target)
    runs, found = _words_of(text, bool(target) and target not in LANGUAGES_OF["latin"])
    counts = found.copy()
    by_script: dict[str, list[list[str]]] = {}
    for script, run in runs:
        by_script.setdefault(script, []).append(run)
    for script, parts in by_script.items():
        candidates = _candidates(allowed, script)
        if len(candidates) > 1 and (not target or target in candidates):
            for label, number in _by_language(parts, candidates, target).items():
                counts[label] += number
        else:
            counts[candidates[0] if len(candidates) == 1 else script] += sum(len(run) for run in parts)
    for script in WORDS_A_CHARACTER.keys() & counts.keys():
        if allowed & LANGUAGES_OF[script]:
            counts[next(iter(LANGUAGES_OF[script]))] += counts.pop(script)
    return {label: count for label, count in counts.items() if count}


@lru_cache(maxsize=64)
def _told_apart(languages: tuple[str, ...], target: str) -> frozenset[str]:
    unknown = set(languages) - KNOWN
    if unknown:
        raise ValueError(f"no known languages: {', '.join(sorted(unknown))}; there are {', '.join(sorted(KNOWN))}")
    return frozenset(languages) | (relatives(target) if target else frozenset())


@lru_cache(maxsize=256)
def _candidates(languages: frozenset[str], script: str) -> tuple[str, ...]:
    """Those of the languages that are written in a script."""
    return tuple(sorted(languages & LANGUAGES_OF.get(script, frozenset())))


def _by_language(parts: list[list[str]], candidates: tuple[str, ...], target: str) -> Counter[str]:
    """Words of one script by language. What tells none goes with the rest; where nothing tells one, with the target."""
    ranked = candidates if target else _with_likely_relatives(parts, candidates)
    found: Counter[str] = Counter()
    undecided: list[str] = []
    doubted: Counter[str] = Counter()  # words that the target has by the benefit of the doubt, by their likeliest
    leads = defaultdict[str, float](float)  # of each other language over the target, where one of them is likeliest
    has_relatives = len(relatives(target)) > 1
    for part in parts:
        ranking = _ranking(" ".join(part), ranked)
        if ranked != candidates:
            ranking = tuple(of for of in ranking if of[0] in candidates)
        best, score = ranking[0]
        if score - ranking[1][1] <= (_DOUBT if len(part) <= _SHORT_RUN else 0.0):
            undecided += part
        elif not target or best == target:
            found[best] += len(part)
            if has_relatives:
                for name, rest in ranking:
                    leads[name] -= min(2 * _DOUBT, score - rest)
        else:
            lead = score - dict(ranking)[target]
            leads[best] += min(2 * _DOUBT, lead)
            if lead <= _DOUBT:
                doubted[best] += len(part)
            else:
                found[best] += len(part)
    for rival, number in doubted.items():
        found[rival if leads[rival] > _DOUBT else target] += number
    if undecided:
        most = max(sorted(found), key=found.__getitem__) if found else target
        found[most or _ranking(" ".join(undecided[:_RUN]), candidates)[0][0]] += len(undecided)
    return found


@lru_cache(maxsize=2)  # a chain whose language is not given is looked at again once it is known
def _words_of(text: str, formulas: bool) -> tuple[list[tuple[str, list[str]]], defaultdict[str, float]]:
    return _runs(plain_text(text), formulas=formulas)


def _runs(text: str, *, formulas: bool) -> tuple[list[tuple[str, list[str]]], defaultdict[str, float]]:
    """Runs of words of one script, and the words of scripts without spaces, already counted (characters of Han and
    kana by language, sentence by sentence). formulas: leave out the Latin words that belong to them, which are of no
    account in a text of Latin words.
    """
    runs: list[tuple[str, list[str]]] = []
    counts: defaultdict[str, float] = defaultdict(float)
    sentences: list[tuple[int, int]] = []  # characters of Han and of kana
    script = ""
    run: list[str] = []
    ends: set[int] = set()  # where in the run sentences end
    han = kana = 0
    plain_from = _LONGEST_NAME if formulas else 2  # words of more letters need no second look
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup or ""
        if kind == "gap":
            continue
        if kind == "stop":
            ends.add(len(run))
            if han or kana:
                sentences.append((han, kana))
                han = kana = 0
            continue
        word = token[kind]
        length = len(word)
        if kind == script and length > plain_from and kind not in WORDS_A_CHARACTER:
            run.append(word[:_LONGEST_WORD])  # most words
            continue
        if kind == "han":
            han += length
        elif kind == "kana":
            kana += length
        elif length == 1 and kind in ONE_LETTER_IS_A_SYMBOL:
            if not _in_a_word(kind, text, token.start()):
                continue
        elif (
            kind == "latin"
            and (length == 2 or (formulas and (length == 3 or word.lower() in NAMES)))
            and in_a_formula(word, text, token.start(), formulas)
        ):
            continue
        if kind != script:
            runs.extend((script, part) for part in _parts(run, ends))
            script, run, ends = kind, [], set()
        if kind in WORDS_A_CHARACTER:
            if kind not in ("han", "kana"):
                counts[kind] += length * WORDS_A_CHARACTER[kind]
        else:
            run.append(word[:_LONGEST_WORD])
    runs.extend((script, part) for part in _parts(run, ends))
    sentences.append((han, kana))
    _count_han_and_kana(sentences, counts)
    return runs, counts


def _in_a_word(kind: str, text: str, place: int) -> bool:
    """Whether a single letter is glued to a Latin or Cyrillic one of the other script: a word in disguise."""
    beside = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
    if beside.isascii() and kind == "latin":
        return False
    return kind in ("latin", "cyrillic") and any(c.isalpha() and (c < "ʰ" or "Ѐ" <= c < "\u0530") for c in beside)


def _count_han_and_kana(sentences: list[tuple[int, int]], counts: dict[str, float]) -> None:
    """Han characters are Japanese where at least a fifth of their sentence is kana, or where they are at most 6 with no
    kana in a text that has such sentences ("合計金額"); else Chinese. Kana is Japanese."""
    has_japanese = any(kana and kana * 4 >= han for han, kana in sentences)
    for han, kana in sentences:
        is_japanese = kana * 4 >= han if kana else has_japanese and han <= 6
        counts["ja" if is_japanese else "zh"] += han * WORDS_A_CHARACTER["han"]
        counts["ja"] += kana * WORDS_A_CHARACTER["kana"]


def _parts(run: list[str], ends: set[int]) -> list[list[str]]:
    """A run in parts of at most 10 words, cut at 8, or at the end of a sentence from 5 on. Short capitals go, being
    names of points and units, unless 4 words in a row are capitals: that is shouting."""
    if any(map(str.isupper, run)):
        words: list[tuple[str, bool]] = []
        marked = [(word, place + 1 in ends) for place, word in enumerate(run)]
        # Scripts beyond U+0530 have letters that count as capitals and have no small ones.
        for capitals, group in groupby(marked, key=lambda item: item[0].isupper() and item[0] < "\u0530"):
            items = list(group)
            words += [item for item in items if not capitals or len(items) >= 4 or len(item[0]) > 4]
        run, ends = [word for word, _ in words], {place + 1 for place, (_, end) in enumerate(words) if end}
    parts: list[list[str]] = []
    start = 0
    for end in range(1, len(run) + 1):
        if end - start == _RUN or (end - start >= _SENTENCE and end in ends):
            parts.append(run[start:end])
            start = end
    if start < len(run):
        rest = run[start:]
        if parts and len(rest) <= 2:
            parts[-1] += rest
        else:
            parts.append(rest)
    return parts


def _with_likely_relatives(parts: list[list[str]], candidates: tuple[str, ...]) -> tuple[str, ...]:
    """The candidates with the relatives of what the longest part is in: those that the parts are ranked among once the
    language is known. Ranked so from the start, they need it once; the likelihood of one does not depend on the others.
    """
    longest: list[str] = max(parts, key=len)
    likely = _ranking(" ".join(longest), candidates)[0][0]
    return tuple(sorted({*candidates, *relatives(likely)}))


@lru_cache(maxsize=256)  # texts repeat themselves, and are asked again once their language is known
def _ranking(text: str, candidates: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """At least two languages with their log likelihoods, the likeliest first. Both forms of Norwegian are one."""
    found: list[tuple[str, float]] = _identifier(candidates).rank(text)
    if "no" not in candidates:
        return tuple(found)
    ranking: dict[str, float] = {}
    for name, score in found:
        ranking.setdefault("no" if name == "nn" else name, score)
    return tuple(ranking.items())


@lru_cache(maxsize=1)
def _model() -> Any:  # py3langid has no types
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


@lru_cache(maxsize=64)
def _identifier(languages: tuple[str, ...]) -> Any:
    """The classifier restricted to these languages. Copies share the model's tables, and none changes another."""
    restricted = copy.copy(_model())
    restricted.set_languages((*languages, "nn") if "no" in languages else languages)
    return restricted
