"""The numbers of an evaluation: what EvalResult holds, and how they come from graded samples.

Axis suffixes: _P problems, _G samples of one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rl.config import EvalConfig
from rl.evaluation import selection
from rl.evaluation.consensus import answer_classes, correct_share
from rl.evaluation.metrics import default_ks, majority, mean_and_stderr, pass_at_k
from rl.evaluation.selection import LOGPROB, MAJORITY, SHORTEST, Candidates
from rl.evaluation.style import Style
from rl.records.renamed_metrics import with_new_names, with_old_names
from rl.records.whole_files import RUN_STAGE_AGAIN, read_json, write_json
from rl.scoring.routing import ACCURACY
from rl.types import GradedGroup, Verdict

SEARCH, VOTE = "search@", ":vote"
MAJORITY_AT = "cons@tokens:"
"""Before the name of another way of choosing: the majority vote at the tokens that it costs, for a claim."""


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Shares from 0 to 1, lengths in tokens. correct_P: of each problem, the share that is correct of its
    samples with a verdict; NaN where none has one.

    pass_at: k -> (mean, standard error). cons: majority vote over all k samples, None for one sample. thought_mean and
    answer_mean: before and after the last </think>. format, language: see rl.evaluation.style; None where there is
    nothing to say. without_verdict: samples without a verdict, the greedy ones included. samples: k. cons_P, format_P,
    language_P, thought_P and length_P (tokens, means over the samples): of each problem, for comparisons of the same
    problems in pairs; NaN where there is none, empty in older files.
    selected: "cons@4", "best@4:prm" and so on (rl.evaluation.selection), for each k of pass_at -> of each problem, the
    expected correctness of the answer that is chosen. searched: SearchConfig.label -> rl.evaluation.search_results.
    Searched. prompt_length: mean tokens of a prompt. scorer_cost: reward model
    -> what scoring one sample costs, in tokens of the model that is evaluated (scorer_cost()).
    """

    pass_at_1: float
    stderr: float
    greedy: float | None
    truncated: float
    length_mean: float
    correct_P: list[float]
    pass_at: dict[str, tuple[float, float]] = field(default_factory=dict)
    cons: float | None = None
    cons_stderr: float | None = None
    thought_mean: float | None = None
    answer_mean: float | None = None
    format: float | None = None
    language: float | None = None
    without_verdict: int = 0
    samples: int = 0
    cons_P: list[float] = field(default_factory=list)
    format_P: list[float] = field(default_factory=list)
    language_P: list[float] = field(default_factory=list)
    thought_P: list[float] = field(default_factory=list)
    length_P: list[float] = field(default_factory=list)
    selected: dict[str, list[float]] = field(default_factory=dict)
    prompt_length: float = 0.0
    scorer_cost: dict[str, float] = field(default_factory=dict)
    searched: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Flat, without what was not measured."""
        out: dict[str, float | None] = {"pass@1": self.pass_at_1, "stderr": self.stderr, "greedy": self.greedy}
        out |= {f"pass@{k}": mean for k, (mean, _) in self.pass_at.items() if k != "1"}
        if self.cons is not None:
            out |= {f"cons@{self.samples}": self.cons, f"cons@{self.samples}/stderr": self.cons_stderr}
        for name, values_P in self.selected.items():
            kind, k = selection.parsed(name)
            if k == self.samples and kind != "cons":  # the curve over k is in the file alone
                mean, stderr = mean_and_stderr(values_P)
                out |= {name: mean, f"{name}/stderr": stderr}
        for label, found in self.searched.items():
            for name, values_P in ((f"{SEARCH}{label}", found["correct"]), (f"{SEARCH}{label}:vote", found["vote"])):
                mean, stderr = mean_and_stderr(values_P)
                out |= {name: mean, f"{name}/stderr": stderr} if values_P else {}
            out[f"{SEARCH}{label}/tokens"] = mean_and_stderr(found["tokens"])[0]
        out |= {"truncated_share": self.truncated, "rollout/length_mean": self.length_mean}
        out |= {"thought/length_mean": self.thought_mean, "answer/length_mean": self.answer_mean}
        out |= {"format_share": self.format, "language": self.language, "without_verdict": float(self.without_verdict)}
        return {name: value for name, value in out.items() if value is not None}

    def tokens_of(self, kind: str, k: int) -> float:
        """What choosing among k samples costs for a problem, in tokens of the model: its prompt once, the samples, and
        the scorer's work. kind: "cons" or "best:prm", as selection.parsed gives it.
        """
        each = self.length_mean + self.scorer_cost.get(selection.score_of(kind), 0.0)
        return self.prompt_length + k * each

    def chosen_P(self, metric: str) -> list[float]:
        """The values of each problem for the name of a way of choosing, of a search, or of the majority at the tokens
        of one (MAJORITY_AT). Empty where it was not measured.
        """
        other = metric.removeprefix(MAJORITY_AT)
        label = other.removeprefix(SEARCH).removesuffix(VOTE)
        searched = other.startswith(SEARCH) and label in self.searched
        if not searched and other not in self.selected:
            return []
        if other != metric:
            return self.majority_at(other)
        return (
            self.searched[label]["vote" if metric.endswith(VOTE) else "correct"] if searched else self.selected[metric]
        )

    def majority_at(self, metric: str) -> list[float]:
        """The majority vote of each problem at the tokens that another way of choosing costs: between two numbers of
        samples, the mean of their votes by distance; beyond the most samples there are, the vote of those.

        Votes .5 of 2 samples (21 tokens) and .7 of 4 (41 tokens), at 31 tokens -> .6
        """
        if metric.startswith(SEARCH):
            spent = mean_and_stderr(self.searched[metric.removeprefix(SEARCH).removesuffix(VOTE)]["tokens"])[0]
        else:
            spent = self.tokens_of(*selection.parsed(metric))
        votes = {
            k: values_P
            for name, values_P in self.selected.items()
            for kind, k in [selection.parsed(name)]
            if kind == "cons"
        }
        ks = sorted(votes)
        tokens = [self.tokens_of("cons", k) for k in ks]
        return [float(np.interp(spent, tokens, [votes[k][p] for k in ks])) for p in range(len(self.correct_P))]

    def write(self, path: Path) -> None:
        write_json(path, with_old_names(asdict(self)), indent=None)

    @staticmethod
    def read(path: Path, remedy: str = RUN_STAGE_AGAIN) -> EvalResult:
        """Raises BadInput, with the remedy, for a damaged file."""
        return read_json(path, lambda tree: EvalResult(**with_new_names(tree)), remedy)


@dataclass(frozen=True, slots=True)
class Choosing:
    """How answers are chosen among the samples. select: evaluation.select.

    logits: the rewards whose scores are logits, which vote with their sigmoid. sizes: reward model -> its parameters
    as a multiple of those of the model that is evaluated.
    """

    select: tuple[str, ...] = (MAJORITY,)
    logits: frozenset[str] = frozenset()
    sizes: Mapping[str, float] = field(default_factory=dict)


def summarise(
    graded_P: Sequence[GradedGroup],
    reward_P: Sequence[str],
    ks: Sequence[int],
    *,
    greedy: float | None,
    style: Style,
    without_verdict: int,
    verified: Collection[str] = (ACCURACY,),
    choosing: Choosing = Choosing(),
) -> EvalResult:
    """The numbers of graded samples. reward_P: for each problem, whose verdicts count. verified: the rewards whose
    "correct" means equal to the reference answer.
    """
    correct_PG = [correct_of(g, reward) for g, reward in zip(graded_P, reward_P, strict=True)]
    correct_P = [correct_share(correct_G) for correct_G in correct_PG]
    pass_at_1, stderr = mean_and_stderr(correct_P)
    samples = max(len(correct_G) for correct_G in correct_PG)
    cons_P: list[float] = []
    selected: dict[str, list[float]] = {}
    if samples > 1:
        verified_P = [reward in verified for reward in reward_P]
        classes_PG = answer_classes([g.group for g in graded_P], correct_PG, verified_P)
        cons_P = [majority(*of_one) for of_one in zip(classes_PG, correct_PG, strict=True)] if classes_PG else []
        selected = _selected(graded_P, classes_PG, correct_PG, ks, choosing)
    cons = mean_and_stderr(cons_P) if cons_P else (None, None)
    rollouts = [r for g in graded_P for r in g.group.rollouts_G]
    lengths_PG = [[r.num_sampled for r in g.group.rollouts_G] for g in graded_P]
    return EvalResult(
        pass_at_1=pass_at_1,
        stderr=stderr,
        greedy=greedy,
        truncated=sum(r.truncated for r in rollouts) / len(rollouts),
        length_mean=sum(map(sum, lengths_PG)) / len(rollouts),
        correct_P=correct_P,
        pass_at={str(k): mean_and_stderr([_pass_at(correct_G, k) for correct_G in correct_PG]) for k in ks},
        cons=cons[0],
        cons_stderr=cons[1],
        thought_mean=style.thought_mean,
        answer_mean=style.answer_mean,
        format=style.format,
        language=style.language,
        without_verdict=without_verdict,
        samples=samples,
        cons_P=cons_P,
        format_P=style.format_P,
        language_P=style.language_P,
        thought_P=style.thought_P,
        length_P=[sum(lengths_G) / len(lengths_G) for lengths_G in lengths_PG],
        selected=selected,
        prompt_length=sum(len(g.group.prompt.token_ids) for g in graded_P) / len(graded_P),
        scorer_cost={name: scorer_cost(graded_P, size) for name, size in choosing.sizes.items()},
    )


def scorer_cost(graded_P: Sequence[GradedGroup], size: float) -> float:
    """What scoring one sample costs, in tokens of the policy: the tokens read (question and response, counted in the
    policy's tokens) times the scorer's size as a multiple of the policy's. A forward pass costs 2 N operations a token.

    A prompt of 10 tokens, samples of 30 and 50, a scorer of twice the size -> (40 + 60) / 2 x 2 = 100
    """
    read = [len(g.group.prompt.token_ids) + len(r.token_ids_T) for g in graded_P for r in g.group.rollouts_G]
    return size * sum(read) / len(read)


def _selected(
    graded_P: Sequence[GradedGroup],
    classes_PG: Sequence[Sequence[int | None]],
    correct_PG: Sequence[Sequence[float]],
    ks: Sequence[int],
    choosing: Choosing,
) -> dict[str, list[float]]:
    """Of each problem, what each way of choosing scores at each k. classes_PG: empty where there is nothing to vote."""
    select = [name for name in choosing.select if classes_PG or name != MAJORITY]
    names = [name for name in select if name != MAJORITY]
    no_votes: list[Sequence[int | None]] = [[None] * len(correct_G) for correct_G in correct_PG]
    candidates_P = []
    for graded, classes_G, correct_G in zip(graded_P, classes_PG or no_votes, correct_PG, strict=True):
        scores = {name: scores_of(graded, name) for name in names}
        weights = {name: _weights(scores_G, name in choosing.logits) for name, scores_G in scores.items()}
        candidates_P.append(Candidates(classes_G, correct_G, scores, weights))
    found = selection.choices(candidates_P, select, ks)
    return found if classes_PG else {name: values for name, values in found.items() if name.startswith("best@")}


def scores_of(graded: GradedGroup, name: str) -> list[float]:
    """A score for each sample: a reward's (NaN where it says nothing), the mean logprob, or minus the length."""
    rollouts_G = graded.group.rollouts_G
    if name == LOGPROB:
        return [float(r.logprobs_T.mean(dtype="float64")) if len(r.logprobs_T) else math.nan for r in rollouts_G]
    if name == SHORTEST:
        return [-float(r.num_sampled) for r in rollouts_G]
    parts = [p.get(name) for p in graded.parts_G]
    return [part.score if part is not None and part.verdict.is_valid else math.nan for part in parts]


def _weights(scores_G: Sequence[float], logits: bool) -> list[float]:
    if not logits:
        return list(scores_G)
    return [score if math.isnan(score) else 1 / (1 + math.exp(-max(score, -700.0))) for score in scores_G]


def correct_of(graded: GradedGroup, reward: str) -> list[float]:
    """1 or 0 for each sample, NaN where the reward has no verdict."""
    parts = [p.get(reward) for p in graded.parts_G]
    return [math.nan if p is None or not p.verdict.is_valid else float(p.verdict == Verdict.CORRECT) for p in parts]


def _pass_at(correct_G: Sequence[float], k: int) -> float:
    """pass@k of one problem from its samples with a verdict; NaN where they are fewer than k."""
    valid = [c for c in correct_G if not math.isnan(c)]
    return pass_at_k(len(valid), int(sum(valid)), k) if k <= len(valid) else math.nan


def measured_names(cfg: EvalConfig) -> set[str]:
    """Names of all that an evaluation may measure: what depends on the problems (as their language) is among them."""
    if not cfg.data.source:
        return set()
    ks = cfg.pass_at or default_ks(cfg.samples)
    whole = EvalResult(
        0.0, 0.0, 0.0 if cfg.greedy else None, 0.0, 0.0, [], {str(k): (0.0, 0.0) for k in ks},
        cons=0.0, cons_stderr=0.0, thought_mean=0.0, answer_mean=0.0, format=0.0, language=0.0, samples=cfg.samples,
    )  # fmt: skip
    chosen = {name for k in ks for name in selection.names(cfg.select, k)} if cfg.samples > 1 else set()
    for search in cfg.search:
        chosen |= {f"{SEARCH}{search.label}", f"{SEARCH}{search.label}{VOTE}"}
    equal = {f"{MAJORITY_AT}{name}" for name in chosen} if MAJORITY in cfg.select else set()
    tokens = {f"{SEARCH}{search.label}/tokens" for search in cfg.search}
    return {"cons", *whole.metrics(), *chosen, *equal, *tokens}
