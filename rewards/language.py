r"""Language consistency: how much of the chain of thought is in one language.

R1's reward (V2 eq. 7): words in the target language / words, over the chain of thought. R1 does not disclose its
language detector. Here scripts decide where they can; among languages of one script py3langid decides, for runs of at
most 10 words. Mathematics and code are taken out first, prose that hides in them is not.

A script without spaces has no words to count: two characters of Chinese or Japanese, or four of Thai, Lao, Khmer or
Burmese, count as one. Japanese inside Chinese sentences stays hard: Han characters follow the kana of their sentence.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections import Counter, defaultdict
from functools import lru_cache
from itertools import groupby
from typing import Any

from rewards.extract import THINK_CLOSE
from rewards.types import CORRECT, WRONG, Score

LANGUAGES = (
    "ar", "bn", "de", "el", "en", "es", "fa", "fr", "he", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv",
    "sw", "ta", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
"""What a text is told apart into by default; the target is always added."""

CONSISTENT = 0.95
"""From this share on the verdict is "correct": on text mixed inside sentences the method errs by about .045."""

NO_WORDS = "no words left to judge"
"""The reason where a text without words scores 1: count it, since a run full of such texts learns nothing here."""

_RUN = 8  # words that are classified together; up to 2 left over join them
_SENTENCE = 5  # from so many on, the end of a sentence ends a run
_SHORT_RUN = 3  # up to so many words, a lead of at most _DOUBT (log likelihood) tells nothing
_DOUBT = 6.0
_LONGEST_WORD = 40  # characters

# script: (its characters, its languages by their ISO 639 codes). Order is the order of trial.
_SCRIPTS = {
    "latin": (
        "A-Za-zªºÀ-ÖØ-öø-ʯ\u0300-\u036fḀ-ỿ",
        "af az ca cs cy da de en eo es et eu fi fr ga gl ha hr hu id is it la lt lv ms mt nl no pl pt ro sk sl so sq "
        "sr sv sw tl tr uz vi xh yo zu",
    ),
    "han": ("\u3005\u3007㐀-䶿一-鿿\uf900-\ufaff\U00020000-\U0003ffff", "zh ja"),
    "kana": ("\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f", "ja"),
    "cyrillic": ("\u0400-\u052f", "be bg kk ky mk mn ru sr tg tt uk"),
    "hangul": ("\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3", "ko"),
    "arabic": ("\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f", "ar fa ps ug ur"),
    "thai": ("\u0e01-\u0e3a\u0e40-\u0e4e", "th"),
    "devanagari": ("\u0900-\u0963\u0971-\u097f", "hi mr ne sa"),
    "bengali": ("\u0980-\u09e5\u09f0-\u09f1", "as bn"),
    "telugu": ("\u0c00-\u0c63", "te"),
    "tamil": ("\u0b80-\u0be5", "ta"),
    "greek": ("\u0370-\u037d\u037f-\u0386\u0388-\u03ff\u1f00-\u1fff", "el"),
    "hebrew": ("\u0591-\u05bd\u05d0-\u05f4", "he"),
    "armenian": ("\u0531-\u0587", "hy"),
    "georgian": ("\u10a0-\u10ff", "ka"),
    "gurmukhi": ("\u0a00-\u0a65", "pa"),
    "gujarati": ("\u0a80-\u0ae5", "gu"),
    "oriya": ("\u0b00-\u0b65", "or"),
    "kannada": ("\u0c80-\u0ce5", "kn"),
    "malayalam": ("\u0d00-\u0d65", "ml"),
    "sinhala": ("\u0d80-\u0df3", "si"),
    "lao": ("\u0e81-\u0ece", "lo"),
    "burmese": ("\u1000-\u103f\u1050-\u109f", "my"),
    "ethiopic": ("\u1200-\u135f", "am"),
    "khmer": ("\u1780-\u17d3", "km"),
}
_LANGUAGES_OF = {script: frozenset(languages.split()) for script, (_, languages) in _SCRIPTS.items()}
KNOWN = frozenset().union(*_LANGUAGES_OF.values())
_WORDS_A_CHARACTER = {"han": 0.5, "kana": 0.5, "thai": 0.25, "lao": 0.25, "khmer": 0.25, "burmese": 0.25}
_ONE_LETTER_IS_A_SYMBOL = frozenset(("latin", "greek", "cyrillic", "arabic", "hebrew"))
_NAMES = {
    "arabic": "ar", "bengali": "bn", "chinese": "zh", "dutch": "nl", "english": "en", "french": "fr", "german": "de",
    "greek": "el", "hebrew": "he", "hindi": "hi", "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko",
    "persian": "fa", "polish": "pl", "portuguese": "pt", "russian": "ru", "spanish": "es", "swahili": "sw",
    "swedish": "sv", "tamil": "ta", "telugu": "te", "thai": "th", "turkish": "tr", "ukrainian": "uk",
    "vietnamese": "vi",
}  # fmt: skip

_GAP = r"[ \t\d\"-\-/:-@\[-`{-~、，：；（）「」『』“”]"
_TOKEN = re.compile(
    r"(?:(?P<stop>[.!?\n。！？…]+)|"
    + "|".join(rf"(?P<{name}>[{chars}]+(?:['’ʼ][{chars}]+)*)" for name, (chars, _) in _SCRIPTS.items())
    + rf"|(?P<other>[^\W\d_]+)|(?P<gap>{_GAP})){_GAP}*"
)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e007f]+"
)
_FANCY_RANGES = ((0xFF21, 0xFF5B), (0x24B6, 0x24EA), (0x1D400, 0x1D800))
_FANCY = re.compile("[" + "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in _FANCY_RANGES) + "]")
_MARKS = re.compile(r"</?(?:think|answer)>|<\|[^|<>\s]{1,40}\|>(?:system|user|assistant)?|\|special_token\|")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_SPACED_LETTERS = re.compile(r"(?<![^\W_])[^\W\d_](?:[^\w\n][^\W\d_]){5,}(?![^\W_])")
_NOT_A_LETTER = re.compile(r"[\W\d_]+")
# Each alternative runs to the next delimiter and no further, so one pass over a text is linear in its length.
_OPENING = re.compile(
    r"(?P<open>```|~~~|\$\$|\\\[|\\\(|\\begin\{(?P<name>equation|align|aligned|gather|cases|array|[pbv]?matrix)\*?\})"
    r"|`[^`\n]++`"
    r"|(?<!\\)\$(?![\s$])[^$\n]*+(?<!\s)\$(?!\d)"
)
_CLOSING = {"\\[": "\\]", "\\(": "\\)"}
_SYMBOL = r"[^\x00-@\[-`{-\x7f]"
_PROSE = re.compile(rf"(?<!{_SYMBOL})(?:{_SYMBOL}{{2,30}}+[ ,]{{1,3}}+){{5,}}+{_SYMBOL}{{2,30}}+|[^\x00-\x7f]{{8,}}+")


def language_consistency(
    completion: str,
    *,
    prompt: str = "",
    target: str = "",
    language: str = "",
    question: str = "",
    problem: str = "",
    languages: tuple[str, ...] = LANGUAGES,
    **columns: object,
) -> Score:
    r"""The share of the chain of thought's words that are in the target language, 0 to 1 (R1, V2 eq. 7).

    target: a setting: one language for all rows. language: the row's. Else it is the language of the row's question
    or problem column, else of the prompt, else (a prompt without words) the one that the chain itself uses most. A
    template outvotes questions in another language: then give the row a language. Codes ("zh", "zh-CN") or English
    names ("Chinese"). languages: those told apart. Raises ValueError for a language that is none of KNOWN.

    A row's own `target` column (the text that SFT learns) arrives under the same name as the setting: what is longer
    than any language's name is that, and is passed over.

    The chain is all before the last </think>, or the whole completion. A chain without words does not excuse the
    answer: then the whole completion is judged. No words at all: 1, with the reason NO_WORDS.

        "So 我们 add the numbers", target "en" -> 4 of 5 words, 0.8
    """
    languages = tuple(languages)  # a config may give a list
    wanted = language_code(target) if 0 < len(target) <= 20 else ""
    wanted = wanted or (language_code(language) if language else "")
    wanted = wanted or main_language(question or problem or prompt, languages)
    chain = chain_of_thought(completion)
    counts = word_counts(chain, languages, target=wanted)
    if not counts and chain != completion:
        counts = word_counts(completion, languages, target=wanted)
    total = sum(counts.values())
    if not total:
        return Score(1.0, CORRECT, NO_WORDS)
    found = wanted or max(sorted(counts), key=counts.__getitem__)
    value = min(1.0, counts.get(found, 0.0) / total)
    others = sorted((name for name in counts if name != found), key=counts.__getitem__, reverse=True)
    said = ", ".join(f"{name} {counts[name] / total:.2f}" for name in others[:3])
    reason = f"{found} {value:.2f} of {total:.0f} words" + (f"; {said}" if said else "")
    return Score(value, CORRECT if value >= CONSISTENT else WRONG, reason)


def chain_of_thought(completion: str) -> str:
    """All before the last </think>; the whole completion where there is none."""
    close = completion.rfind(THINK_CLOSE)
    return completion if close < 0 else completion[:close]


def language_code(name: str) -> str:
    """ "German", "de", "de-AT" and "DE_de" -> "de". Raises ValueError for what is no known language."""
    code = re.split(r"[-_]", name.strip().lower(), maxsplit=1)[0]
    code = _NAMES.get(code, code)
    if code not in KNOWN:
        raise ValueError(f"{name!r} is no known language; there are {', '.join(sorted(KNOWN))}")
    return code


@lru_cache(maxsize=256)  # the samples of a group share their prompt
def main_language(text: str, languages: tuple[str, ...] = LANGUAGES) -> str:
    """The language of most of the text's words, "" when none can be told."""
    counts = {name: count for name, count in word_counts(text, languages).items() if name in KNOWN}
    return max(sorted(counts), key=counts.__getitem__, default="")


def word_counts(text: str, languages: tuple[str, ...] = LANGUAGES, *, target: str = "") -> dict[str, float]:
    """Words by language. Words of a script that none of `languages` or the target uses count under its name.

    With a target, languages of other scripts than its own are not told apart, which saves time. Runs that tell no
    language ("so", or two words that are nearly as likely in another) go with the rest of their script, and else with
    the target: a very short chain has the benefit of the doubt.
    """
    unknown = set(languages) - KNOWN
    if unknown:
        raise ValueError(f"no known languages: {', '.join(sorted(unknown))}; there are {', '.join(sorted(KNOWN))}")
    allowed = frozenset(languages) | ({target} if target else frozenset())
    runs, counts = _runs(plain_text(text))
    by_script: dict[str, list[list[str]]] = {}
    for script, run in runs:
        by_script.setdefault(script, []).append(run)
    for script, parts in by_script.items():
        candidates = tuple(sorted(allowed & _LANGUAGES_OF.get(script, frozenset())))
        if len(candidates) > 1 and (not target or target in candidates):
            for label, number in _by_language(parts, candidates, target).items():
                counts[label] += number
        else:
            counts[candidates[0] if len(candidates) == 1 else script] += sum(len(run) for run in parts)
    for script in _WORDS_A_CHARACTER.keys() & counts.keys():
        if allowed & _LANGUAGES_OF[script]:
            counts[next(iter(_LANGUAGES_OF[script]))] += counts.pop(script)
    return {label: count for label, count in counts.items() if count}


def _by_language(parts: list[list[str]], candidates: tuple[str, ...], target: str) -> Counter[str]:
    """Words of one script by language. What tells none goes with the rest; where nothing tells one, with the target."""
    found: Counter[str] = Counter()
    undecided: list[str] = []
    known: dict[str, str] = {}  # a text that repeats itself is judged once
    for part in parts:
        words = " ".join(part)
        if words not in known:
            known[words] = _classify(words, candidates, _DOUBT if len(part) <= _SHORT_RUN else 0.0, target)
        label = known[words]
        if label:
            found[label] += len(part)
        else:
            undecided += part
    if undecided:
        rest = max(sorted(found), key=found.__getitem__) if found else target
        rest = rest or _classify(" ".join(undecided[:_RUN]), candidates, 0.0, "")
        if rest:
            found[rest] += len(undecided)
    return found


def plain_text(text: str) -> str:
    """The text without tags, invisible characters, mathematics and code. Letters in disguise become plain letters.

    "It is $x+1$ or `f(x)`" -> "It is   or  ". "$5 and then $10" stays: no closing $ stands before a digit. A run of
    6 words inside mathematics or code is prose and stays too.
    """
    if _FANCY.search(text):
        text = text.translate(_plain_letters())
    text = _MARKS.sub(" ", _INVISIBLE.sub("", text))
    kept: list[str] = []
    position = 0
    dead: set[str] = set()  # delimiters that do not occur again: looking for them each time would be quadratic
    while match := _OPENING.search(text, position):
        end = match.end()
        if match["open"]:
            opening = match["open"]
            closing = f"\\end{{{match['name']}" if match["name"] else _CLOSING.get(opening, opening)
            close = -1 if closing in dead else text.find(closing, end)
            if close < 0:
                dead.add(closing)
                kept.append(text[position:end])
                position = end
                continue
            end = close + len(closing)
        kept.append(text[position : match.start()])
        kept.extend(_PROSE.findall(text, match.start(), end))
        position = end
    kept.append(text[position:])
    text = _COMMAND.sub(" ", " ".join(kept))
    return _SPACED_LETTERS.sub(lambda found: _NOT_A_LETTER.sub("", found.group()), text)


def _runs(text: str) -> tuple[list[tuple[str, list[str]]], dict[str, float]]:
    """Runs of words of one script, and the words of scripts without spaces, already counted (characters of Han and
    kana by language, sentence by sentence)."""
    runs: list[tuple[str, list[str]]] = []
    counts: defaultdict[str, float] = defaultdict(float)
    sentences: list[tuple[int, int]] = []  # characters of Han and of kana
    script = ""
    run: list[str] = []
    ends: set[int] = set()  # where in the run sentences end
    han = kana = 0
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
        if kind == "han":
            han += length
        elif kind == "kana":
            kana += length
        elif length == 1 and kind in _ONE_LETTER_IS_A_SYMBOL and not _in_a_word(kind, text, token.start()):
            continue
        elif length == 2 and kind == "latin" and token.start() and text[token.start() - 1] in "0123456789_":
            continue  # "5km", "x_ab"
        if kind != script:
            runs.extend((script, part) for part in _parts(run, ends))
            script, run, ends = kind, [], set()
        if kind in _WORDS_A_CHARACTER:
            if kind not in ("han", "kana"):
                counts[kind] += length * _WORDS_A_CHARACTER[kind]
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
        counts["ja" if is_japanese else "zh"] += han * _WORDS_A_CHARACTER["han"]
        counts["ja"] += kana * _WORDS_A_CHARACTER["kana"]


def _parts(run: list[str], ends: set[int]) -> list[list[str]]:
    """A run in parts of at most 10 words, cut at 8, or at the end of a sentence from 5 on. Short capitals go, being
    names of points and units, unless 4 words in a row are capitals: that is shouting."""
    if any(word.isupper() for word in run):
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


def _classify(text: str, candidates: tuple[str, ...], lead: float, target: str) -> str:
    """The likeliest of at least two languages, "" when it leads the next by no more than `lead` (in log likelihood).
    The target is doubted by no more than _DOUBT: Russian has sentences that are a little likelier in Ukrainian."""
    ranking = _identifier(candidates).rank(text)
    (best, score), (_, second) = ranking[:2]
    if score - second <= lead:
        return ""
    return target if target and score - dict(ranking)[target] <= _DOUBT else str(best)


@lru_cache(maxsize=1)
def _model() -> Any:  # py3langid has no types
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


@lru_cache(maxsize=64)
def _identifier(languages: tuple[str, ...]) -> Any:
    """The classifier restricted to these languages. Copies share the model's tables, and none changes another."""
    restricted = copy.copy(_model())
    restricted.set_languages(languages)
    return restricted


@lru_cache(maxsize=1)
def _plain_letters() -> dict[int, str]:
    """Full-width, circled and mathematical letters -> the letters that they depict."""
    return {
        code: unicodedata.normalize("NFKC", chr(code)) for first, end in _FANCY_RANGES for code in range(first, end)
    }
