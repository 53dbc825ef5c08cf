"""Language that hides in formulas and code a few words at a time is found; formulas and code that are some cost nothing."""

from __future__ import annotations

import time

import pytest

from rewards.language import CONSISTENT, language_consistency
from rewards.prose import plain_text
from rewards.types import WRONG

ENGLISH = "First we add the number of apples in both baskets and then we divide the sum by two to get the answer"
CHINESE = "首先我们把两个篮子里的苹果数量加起来，然后除以二，就得到了答案。"
WORDS = ENGLISH.split()


def pieces(count: int) -> list[str]:
    return [" ".join(WORDS[i : i + count]) for i in range(0, len(WORDS), count)]


def hidden(left: str, right: str, count: int, between: str = " ") -> str:
    return between.join(f"{left}{piece}{right}" for piece in pieces(count))


HOSTILE = {
    **{f"{count} words at a time in dollars": hidden("$", "$", count) for count in (1, 2, 3, 4, 5)},
    **{f"{count} words at a time in backticks": hidden("`", "`", count) for count in (1, 2, 3, 4, 5)},
    **{f"{count} words at a time in dollars, Chinese between": hidden("$", "$", count, " 好 ") for count in (1, 2, 3, 4, 5)},
    **{f"{count} words at a time in backticks, Chinese between": hidden("`", "`", count, " 好 ") for count in (3, 4, 5)},
    "in parentheses": hidden(r"\(", r"\)", 4),
    "in brackets": hidden(r"\[", r"\]", 5),
    "in display dollars": hidden("$$", "$$", 3),
    "as text in formulas": hidden(r"$\text{", "}$", 4),
    "as upright text in formulas": hidden(r"$\mathrm{", "}$", 2),
    "as text with a letter": hidden(r"$x \text{ ", "} y$", 3, " 和 "),
    "in an equation": "\n".join(rf"\begin{{align}}{piece}\end{{align}}" for piece in pieces(4)),
    "with commas": hidden("$", "$", 4).replace(" ", ", "),
    "with full stops between": hidden("$", "$", 5, ". "),
    "with dashes between": hidden("`", "`", 2, " - "),
    "on short lines of a code block": "```\n" + "\n".join(pieces(4)) + "\n```",
    "on lines of three words in a code block": "```text\n" + "\n".join(pieces(3)) + "\n```",
    "in a block of tildes": "~~~\n" + "\n".join(pieces(5)) + "\n~~~",
    "in many blocks": "\n".join(f"```\n{piece}\n```" for piece in pieces(4)),
    "a stray backtick before a fence": f"` ```\nx = 1\n``` {ENGLISH} ```\ny = 2\n```",
    "a stray backtick behind a fence": f"```\nx = 1\n```` {ENGLISH} ```\ny = 2\n```",
    "a stray backtick beside each fence": f"`\n```\nx = 1\n```\n`\n{ENGLISH}\n`\n```\ny = 2\n```",
    "two stray backticks": f"`` ```\nx = 1\n``` ``\n{ENGLISH}",
    "four backticks": "````\n" + "\n".join(pieces(4)) + "\n````",
    "formulas and code by turns": " ".join(f"${piece}$" if i % 2 else f"`{piece}`" for i, piece in enumerate(pieces(5))),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_words_hidden_a_few_at_a_time_are_words(case):
    for text in (HOSTILE[case], f"好。{HOSTILE[case]}"):
        score = language_consistency(text, target="zh")
        assert score.value < 0.9, score
        assert score.verdict == WRONG


@pytest.mark.parametrize("count", [4, 5, 8, 12])
def test_chinese_hidden_a_few_characters_at_a_time_is_chinese(count):
    text = CHINESE.replace("，", "").replace("。", "")
    for left, right in (("$", "$"), ("`", "`"), (r"$\text{", "}$")):
        parts = " so ".join(f"{left}{text[i : i + count]}{right}" for i in range(0, len(text), count))
        assert language_consistency(parts, target="en").value < 0.9


HONEST = {
    "formulas": rf"{CHINESE} $x^2 + \sin x$，$\frac{{a}}{{b}}$，$AB = CD$，$\triangle ABC$，$\log n$，$a_n = 2n - 1$。{CHINESE}",
    "units and words of mathematics": rf"{CHINESE} $5\text{{ cm}}$，$3\text{{ m}}$，$\max(a, b)$，$\gcd(m, n)$，$n \bmod 7$，$\text{{if }} x > 0$。{CHINESE}",
    "named quantities": rf"{CHINESE} 设 $speed$ 和 $time$，则 $distance = speed \times time$。{CHINESE}",
    "inline code": f"{CHINESE} 用 `for i in range(10)`，`return total`，`import math`，`from math import sqrt`，`if x not in nums`，`print(total)`，`len(nums)`。{CHINESE}",
    "names of functions": f"{CHINESE} `solve`，`is_prime`，`max_value`，`two_sum`，`nums`，`target`，`index`。{CHINESE}",
    "a code block": f"{CHINESE}\n```python\ndef solve(nums, target):\n    # compute the sum\n    for num in nums:\n        if num not in seen:\n            continue\n        total += num\n    return total\n```\n{CHINESE}",
    "a stray backtick before a code block": f"{CHINESE} ` ```python\ndef solve(nums, target):\n    # compute the sum\n    total, index, answer = sum(nums), 0, None\n    print(total, index, answer)\n``` {CHINESE}",
    "a table of data": f"{CHINESE}\n```\n1 2 3\n4 5 6\n```\n{CHINESE}",
    "Chinese in formulas": rf"{CHINESE} $\text{{面积}} = \text{{长}} \times \text{{宽}}$，$\text{{速度}} = 5$。{CHINESE}",
    "backticks of its own": f"{CHINESE} 这是 `` ` `` 符号。{CHINESE}",
}  # fmt: skip


@pytest.mark.parametrize("case", HONEST)
def test_formulas_and_code_cost_a_chain_nothing(case):
    score = language_consistency(HONEST[case], target="zh")
    assert score.value >= CONSISTENT, score


def test_a_few_words_in_formulas_are_no_prose():
    assert plain_text("$the sum$ is `a b c`").split() == ["is"]


@pytest.mark.parametrize(
    "flood",
    [
        "`",
        "$a b$ ",
        "`a b c` ",
        "```",
        "``` ",
        "$",
        "`a",
        "~~~\na b c\n",
        r"\(",
        "` ``` ",
        "a ",
        "$a$好",
        "我们 `我们` ",
    ],
)
def test_a_megabyte_of_formulas_and_code_takes_linear_time(flood):
    def seconds(size: int) -> float:
        text = flood * (size // len(flood))
        began = time.process_time()
        plain_text(text)
        return time.process_time() - began

    assert seconds(1_000_000) < 10
