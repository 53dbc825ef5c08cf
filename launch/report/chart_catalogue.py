"""Which metrics the page draws: every chart with its section, its hint and the metrics that are its curves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart. key: "stage:metric", as in points(). error: the key of its standard errors; adds dots."""

    label: str
    key: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart. form: share (0 to 1, shown in %), number, or seconds. hint: one sentence on how to read it."""

    title: str
    hint: str
    form: str
    curves: list[Curve]


# (section, chart, form, hint, [(label, metric pattern)]). A label "*" is replaced by what the pattern's "*" matched.
Spec = tuple[str, str, str, str, list[tuple[str, str]]]
WEIGHTS_MOVED = (
    "Share of the weights in compute precision that an update changed. The others rounded back to what they were: near "
    "zero, the model does not learn what its optimiser computes."
)
GRPO: list[Spec] = [
    ("Reward", "Mean reward", "number", "Weighted sum of the parts, mean over samples.", [("mean", "reward/mean")]),
    ("Reward", "Parts of the reward", "number", "Each reward function, unweighted mean.", [("*", "reward/*")]),
    ("Reward", "Spread", "number", "Standard deviation of the reward over samples.", [("deviation", "reward/std")]),
    (
        "Completions", "Length", "number", "Tokens of a completion, stop token included.",
        [("median", "rollout/length_p50"), ("90th percentile", "rollout/length_p90"), ("longest", "rollout/length_max"),
         ("mean", "rollout/length_mean")],
    ),
    ("Completions", "Cut at the limit", "share", "Completions cut off at the token limit.",
     [("truncated", "rollout/truncated_share")]),
    ("Completions", "Turns", "number", "Turns of the model in a trajectory with an environment.",
     [("mean", "rollout/turns_mean")]),
    ("Completions", "Length percentiles", "number", "Tokens of a completion.", [("*", "emergence/length_p*")]),
    ("Completions", "Reflective words", "number", "Words such as wait, check and however, which express doubt.",
     [("per response", "emergence/reflective_words"), ("per 1,000 words", "emergence/reflective_per_1000_words"),
      ("verification phrases", "emergence/verification")]),
    ("Completions", "Responses that reflect", "share", "Those with at least one such word or phrase.",
     [("reflective words", "emergence/reflective_share"), ("verification", "emergence/verification_share")]),
    ("Completions", "Each reflective word", "number", "Mean count in a response.", [("*", "emergence/words/*")]),
    ("Completions", "Language consistency", "share", "Share of the thinking in the target language.",
     [("consistency", "reward/language_consistency"), ("mixing", "emergence/language_mixing")]),
    ("Completions", "Repeats", "share", "Samples that equal another of their group, and text that repeats itself.",
     [("duplicates", "samples/duplicate_share"), ("repeated text", "watch/repeated_text")]),
    ("Completions", "Sampler's confidence", "number", "Mean log-probability of a sampled token, nats.",
     [("logprob", "rollout/logprob_mean")]),
    (
        "Groups", "Dead groups", "share", "Every sample has the same reward: nothing to learn from.",
        [("uniform", "groups/uniform_share"), ("all correct", "groups/all_correct_share"),
         ("none correct", "groups/none_correct_share")],
    ),
    ("Groups", "Groups trained on", "number", "Groups left after dead ones were dropped or replaced.",
     [("trained", "groups/trained"), ("sampled", "groups/count")]),
    ("Policy", "Entropy", "number", "Entropy of the next token, nats. Near zero, the policy no longer explores.",
     [("entropy", "entropy")]),
    ("Policy", "KL", "number", "KL from the reference, and between sampler and learner; nats per token.",
     [("reference", "kl"), ("sampler", "kl_sampler")]),
    ("Policy", "Clipped tokens", "share", "Share of tokens whose ratio was clipped.",
     [("above", "clip_share_high"), ("below", "clip_share_low"), ("dual", "clip_share_dual")]),
    ("Policy", "Policy ratio", "number", "New over old probability of a token.",
     [("mean", "ratio"), ("largest", "max/ratio")]),
    ("Sampler and learner", "Gap", "number", "Mean difference of their log-probabilities of the same tokens, nats.",
     [("mean", "gap/mean")]),
    ("Sampler and learner", "Largest gap", "number", "Over all tokens of the step, nats.", [("largest", "gap/max")]),
    ("Sampler and learner", "Importance weight", "number", "Weight that corrects the gap; 1 where the two agree.",
     [("weight", "importance_weight")]),
    ("Sampler and learner", "Corrected tokens", "share", "Tokens whose weight was truncated or masked.",
     [("truncated", "importance_truncated"), ("masked", "importance_masked")]),
    ("Optimiser", "Gradient norm", "number", "Norm of the gradient before it is clipped.", [("norm", "grad_norm")]),
    ("Optimiser", "Weights moved", "share", WEIGHTS_MOVED, [("moved", "policy/weights_moved")]),
    ("Optimiser", "Loss", "number", "Near zero by construction: watch the reward instead.", [("loss", "loss")]),
    ("Optimiser", "Learning rate", "number", "", [("rate", "lr")]),
    ("Optimiser", "Skipped updates", "number", "Their gradient was not finite.", [("skipped", "updates/skipped")]),
    ("Verdicts", "*", "share", "Share of samples with each verdict of the reward.", [("*", "verdict/*/*")]),
    ("Signs of gaming", "Signs of gaming", "number", "None proves gaming; each is a reason to read the rollouts.",
     [("*", "watch/*")]),
    ("Speed", "Tokens per second", "number", "Sampled tokens divided by the time of the whole step.",
     [("tokens/s", "tokens_per_second")]),
    ("Speed", "Step", "seconds", "Wall-clock time, without evaluation and checkpoints.", [("seconds", "seconds")]),
    ("Speed", "Tokens of a step", "number", "", [("sampled", "rollout/tokens"), ("trained", "learner/tokens")]),
]  # fmt: skip
SFT: list[Spec] = [
    ("SFT", "Loss (SFT)", "number", "Negative log-likelihood of the target, nats per token.", [("nll", "nll")]),
    (
        "SFT",
        "Held-out loss (SFT)",
        "number",
        "The same loss on examples that are not trained on.",
        [("before", "eval/nll_before"), ("nll", "eval/nll")],
    ),
    ("SFT", "Gradient norm (SFT)", "number", "Norm of the gradient before it is clipped.", [("norm", "grad_norm")]),
    ("SFT", "Weights moved (SFT)", "share", WEIGHTS_MOVED, [("moved", "policy/weights_moved")]),
    ("SFT", "Learning rate (SFT)", "number", "", [("rate", "lr")]),
]
REWARD_MODEL: list[Spec] = [
    ("Reward model", "Loss (reward model)", "number", "Minus the log-sigmoid of the margin.", [("loss", "loss")]),
    (
        "Reward model",
        "Margin (reward model)",
        "number",
        "By how much the better response scores higher.",
        [("margin", "margin")],
    ),
    (
        "Reward model",
        "Gradient norm (reward model)",
        "number",
        "Norm of the gradient before it is clipped.",
        [("norm", "grad_norm")],
    ),
    ("Reward model", "Learning rate (reward model)", "number", "", [("rate", "lr")]),
]
REWARD_ACCURACY = Chart(
    "Accuracy", "Share of pairs or rows scored right. Dots are held-out rows, with one standard error.", "share",
    [Curve("training", "reward:accuracy"), Curve("held-out", "eval:accuracy", "eval:accuracy/stderr")],
)  # fmt: skip
ACCURACY = Chart(
    "Accuracy", "Dots are held-out problems, with one standard error.", "share",
    [Curve("training", "grpo:accuracy"), Curve("held-out pass@1", "eval:pass@1", "eval:stderr"),
     Curve("held-out greedy", "eval:greedy", "-")],
)  # fmt: skip
