"""Telemetry of emergence: how long the model thinks, how often it reflects and verifies, which languages it mixes.

R1-Zero's figures are of response length and of reflective words against training steps (Nature
10.1038/s41586-025-09422-z, Fig. 1b; V2 C.2). The first occurrence of each word, and the first in a correct response,
are kept with their transcripts:

    <run>/aha_moments.jsonl   term, step, correct, prompt_id, sample, tokens, prompt, completion: one object a line
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.evaluation.metrics import percentiles
from rl.records.whole_files import append_lines, cut_partial_line, whole_lines, write_rows
from rl.scoring.routing import ACCURACY
from rl.types import Prompt, RewardPart, Row, ScoredGroup, Verdict

REFLECTIVE_WORDS = (
    "wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check",
)  # fmt: skip
"""R1's list, chosen by three experts (V2 C.2). Counted as whole words of any case: "checking" is not "check"."""

VERIFICATION = (
    "let me check", "let me verify", "let me confirm", "let's check", "let's verify", "let's confirm", "double-check",
    "recheck", "to verify", "verification", "sanity check", "substitute back", "plug back", "plugging back",
)  # fmt: skip
"""Phrases of self-verification. The paper describes the behaviour and gives no list; this one is ours."""

MEASURED_CHARACTERS = 4_000_000
"""Responses of a step are looked through up to so many characters, drawn at random: a fifth of a second on one core."""
LANGUAGE_SAMPLES, LANGUAGE_CHARACTERS = 16, 1500
"""Telling languages apart is slow: so many responses of a step, their first and last characters up to so many."""
LANGUAGE = "language_consistency"
PERCENTILES = (10, 50, 90, 99)

Share = Callable[[str, str, Row], float]
"""(completion, prompt, row) -> the share of its words in the language of the question."""

_SIGNS = re.compile(r"[^\w\x00-\x7f]")
"""Characters outside ASCII that are no letters: dashes, quotes, ideographic commas, no-break spaces."""
_LETTERS = bytes(c if chr(c).isalpha() or c >= 128 else 32 for c in range(256)).lower()


@dataclass(frozen=True, slots=True)
class Terms:
    """What one response holds. reflective: word -> how often. verification: phrases, words: all words."""

    words: int
    reflective: dict[str, int]
    verification: dict[str, int]


_WORDS = {word.encode(): word for word in REFLECTIVE_WORDS}
# Each phrase with its longest word: it is looked for only where that word is. A phrase of one word is just that.
_PHRASES = {
    phrase: (b" ".join(words), max(words, key=len))
    for phrase in VERIFICATION
    if (words := phrase.encode().translate(_LETTERS).split())
}
_KEYS = frozenset(_WORDS) | {key for _, key in _PHRASES.values()}


def count_terms(text: str) -> Terms:
    """Words and phrases of one response; one character (a space, a dash, a line break) stands between a phrase's words.

    "Wait, wait. Let me check: 1 + 1" -> 5 words: wait 2, check 1, "let me check" 1. "Wait—no" -> 2 words.
    """
    if not text.isascii():
        text = _SIGNS.sub(" ", text)
    letters = text.encode("utf-8", "replace").translate(_LETTERS) + b" "
    words = letters.split()
    found = Counter(filter(_KEYS.__contains__, words))
    phrases = {
        name: found[key] if phrase == key else letters.count(phrase + b" ")
        for name, (phrase, key) in _PHRASES.items()
        if key in found
    }
    return Terms(
        words=len(words),
        reflective={word: found[key] for key, word in _WORDS.items() if key in found},
        verification={name: count for name, count in phrases.items() if count},
    )


class Emergence:
    """Measures each step of a run and keeps the first occurrences. start: the first step of this process.

    share: how much of a response is in the question's language, where no reward of the run says so.
    """

    def __init__(self, run_dir: Path, start: int, share: Share, verified: Sequence[str] = (ACCURACY,)) -> None:
        """verified: see rl.scoring.routing.accuracies."""
        self._moments, self._share = Moments(run_dir / "aha_moments.jsonl", start), share
        self._verified = verified

    def step(self, step: int, scored_P: Sequence[ScoredGroup]) -> dict[str, float]:
        """The step's numbers, named emergence/...; new first occurrences are on disk on return.

        Lengths are in tokens, of all responses. Words and phrases are means per response and shares are of responses,
        of those looked through (measured_share of all).
        """
        samples = [Sample(s, i, self._verified) for s in scored_P for i in range(len(s.group.rollouts_G))]
        if not samples:
            return {}
        rng = random.Random(step)
        measured = draw(samples, MEASURED_CHARACTERS, rng)
        terms = [count_terms(sample.text) for sample in measured]
        for sample, found in zip(measured, terms, strict=True):
            self._moments.look(step, sample, [*found.reflective, *found.verification])
        out = term_metrics(terms) | length_metrics([sample.tokens for sample in samples])
        out["emergence/measured_share"] = len(measured) / len(samples)
        return out | {"emergence/language_mixing": self._mixing(samples, rng)}

    def _mixing(self, samples: Sequence[Sample], rng: random.Random) -> float:
        parts = [sample.parts[LANGUAGE] for sample in samples if LANGUAGE in sample.parts]
        shares = [part.score for part in parts if part.verdict.is_valid]
        if not shares:
            few = rng.sample(samples, min(LANGUAGE_SAMPLES, len(samples)))
            shares = [self._share(ends_of(s.text, LANGUAGE_CHARACTERS), s.prompt.text, s.prompt.columns) for s in few]
        return 1.0 - sum(shares) / len(shares)


@dataclass(frozen=True, slots=True)
class Sample:
    """Sample number `index` of a group. verified: the rewards whose "correct" means equal to the reference answer."""

    scored: ScoredGroup
    index: int
    verified: Sequence[str] = (ACCURACY,)

    @property
    def prompt(self) -> Prompt:
        return self.scored.group.prompt

    @property
    def text(self) -> str:
        return self.scored.group.rollouts_G[self.index].text

    @property
    def tokens(self) -> int:
        return self.scored.group.rollouts_G[self.index].num_sampled

    @property
    def parts(self) -> Mapping[str, RewardPart]:
        return self.scored.parts_G[self.index]

    @property
    def correct(self) -> bool:
        """What accuracy says, or the first reward where there is none."""
        names = [*(name for name in self.verified if name in self.parts), *self.parts]
        part = self.parts[names[0]] if names else None
        return part is not None and part.verdict == Verdict.CORRECT


def draw(samples: Sequence[Sample], characters: int, rng: random.Random) -> list[Sample]:
    """Samples of at most so many characters in all (at least one), drawn at random, in their order."""
    chosen: list[int] = []
    total = 0
    for i in rng.sample(range(len(samples)), len(samples)):
        total += len(samples[i].text)
        if total > characters and chosen:
            break
        chosen.append(i)
    return [samples[i] for i in sorted(chosen)]


def term_metrics(terms: Sequence[Terms]) -> dict[str, float]:
    """Means over responses. Two responses with [wait 2] and nothing -> reflective_words 1, reflective_share 0.5."""
    n, words = len(terms), sum(t.words for t in terms)
    totals = Counter[str]()
    for t in terms:
        totals.update(t.reflective)
    out = {
        "emergence/reflective_words": totals.total() / n,
        "emergence/reflective_share": sum(bool(t.reflective) for t in terms) / n,
        "emergence/reflective_per_1000_words": 1000 * totals.total() / words if words else 0.0,
        "emergence/verification": sum(sum(t.verification.values()) for t in terms) / n,
        "emergence/verification_share": sum(bool(t.verification) for t in terms) / n,
    }
    return out | {f"emergence/words/{word}": totals[word] / n for word in REFLECTIVE_WORDS}


def length_metrics(lengths: Sequence[int]) -> dict[str, float]:
    """[1, 2, 3, 4] -> length_mean 2.5, length_p50 2.5, ..."""
    out = {"emergence/length_mean": sum(lengths) / len(lengths)}
    return out | {
        f"emergence/length_p{at}": value
        for at, value in zip(PERCENTILES, percentiles(lengths, PERCENTILES), strict=True)
    }


def ends_of(text: str, limit: int) -> str:
    """The thinking's (all before the last </think>) first and last limit/2 characters; all of a short one."""
    close = text.rfind("</think>")
    text = text[:close] if close >= 0 else text
    return text if len(text) <= limit else f"{text[: limit // 2]}\n{text[-(limit // 2) :]}"


class Moments:
    """The file of first occurrences. Lines of steps that a resumed run does again are removed first.

    So is a line that a kill cut short: its step was not recorded yet, so the line will be written again.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        cut_partial_line(path)
        moments = list(whole_lines(path))
        kept = [moment for moment in moments if moment["step"] < start]
        self._seen = {(str(moment["term"]), bool(moment["correct"])) for moment in kept}
        if len(kept) < len(moments):
            write_rows(path, kept)

    def look(self, step: int, sample: Sample, terms: Sequence[str]) -> None:
        """Write a line for each term that is new: never seen before, or never in a correct response."""
        correct = sample.correct
        known = {term for term in terms if (term, correct) in self._seen or (term, True) in self._seen}
        new = [term for term in terms if term not in known]
        if not new:
            return
        self._seen |= {(term, correct) for term in new}
        place = {"prompt_id": sample.prompt.id, "sample": sample.index, "tokens": sample.tokens}
        texts = {"prompt": sample.prompt.text, "completion": sample.text}
        append_lines(self._path, ({"term": t, "step": step, "correct": correct, **place, **texts} for t in new))
