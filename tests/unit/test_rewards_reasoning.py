"""reasoning-gym's rows: scored by rules of our own, hostile answers first; and the rows that recipes/reasoning.py makes."""

from __future__ import annotations

import sys
import time

import pytest

from recipes import reasoning
from rewards import COLUMNS, REWARDS
from rewards.reasoning import FAMILIES, REFUSED, reasoning_gym
from rewards.types import CORRECT, UNPARSEABLE, WRONG
from rl.types import BadInput

FACTS = '{"numbers": [3, 5, 7], "target": 36}'
ROWS = {
    "chain_sum": ("State the final answer to the following arithmetic problem: 8 - 4 =", "4"),
    "decimal_chain_sum": ("State the final answer to the following arithmetic problem: 7.4 + 4.8 =", "12.20"),
    "products": ("Solve the following multiplication: 914 * 807. Give only the result as your final answer.", "737598"),
    "simple_equations": ("Solve for z: 34*z - 1190 = 2040", "95"),
    "letter_counting": ('How many times does the letter "s" appear in the text: "me see Mr Smith mused"?', "4"),
    "spell_backward": ("Spell this word backward (example: sun -> nus): Excusing", "gnisucxE"),
    "caesar_cipher": ("Decrypt this Caesar cipher text: VXBC YNXYUN. Provide only the decrypted text.", "MOST PEOPLE"),
    "base_conversion": ("Now, convert the base-6 number 2541 to base-13", "3a0"),
    "number_sorting": ("Sort these numbers in ascending order: 2.5, -94.2, 30.0", "['-94.2', '2.5', '30.0']"),
    "number_filtering": ("Remove all numbers smaller than 90 in this list: ['48.3', '-94.19']", "[]"),
    "word_sorting": ("Now, sort these words in ascending order: where, EXCEPT, Let", "EXCEPT, Let, where"),
    "word_sequence_reversal": ("Reverse this list of words: me, Verne, law", "law, Verne, me"),
    "prime_factorization": ("Find the prime factorization of 639. Write the factors separated by ×", "3 × 3 × 71"),
    "countdown": ("Using all the numbers 3, 5, 7, create an expression that equals 36.", "(5 + 7) * 3"),
}  # fmt: skip


def score(family, given, *, form="<think>so</think> <answer>{}</answer>", **settings):
    prompt, gold = ROWS[family]
    settings = {"facts": FACTS if family == "countdown" else "{}", **settings}
    return reasoning_gym(form.format(given), prompt=prompt, answer=gold, family=family, **settings)


@pytest.mark.parametrize("family", ROWS)
def test_the_reference_of_each_kind_of_row_is_right(family):
    assert score(family, ROWS[family][1])[:2] == (1.0, CORRECT)


def test_each_rule_has_a_row_here():
    assert {FAMILIES[family] for family in ROWS} == set(FAMILIES.values())


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("chain_sum", "+4"), ("chain_sum", "4.0"), ("products", "737,598"), ("simple_equations", "z = 95"),
        ("decimal_chain_sum", "12.2"), ("letter_counting", r"\boxed{4}"),
        ("spell_backward", r"\boxed{\text{gnisucxE}}"), ("spell_backward", " gnisucxE. "), ("caesar_cipher", "MOST  PEOPLE"),
        ("number_sorting", "-94.20, 2.50, 30"), ("number_sorting", '["-94.2", "2.5", "30"]'), ("number_filtering", "[ ]"),
        ("word_sorting", "EXCEPT,Let,where"), ("word_sorting", "['EXCEPT', 'Let', 'where']"),
        ("prime_factorization", r"71 \times 3 \times 3"), ("prime_factorization", "3*3*71"), ("prime_factorization", r"$3 \cdot 3 \cdot 71$"),
        ("countdown", "3 * (7 + 5)"), ("countdown", "3 × (7 + 5) = 36"),
    ],
)  # fmt: skip
def test_the_same_answer_in_another_writing_is_right(family, given):
    assert score(family, given)[:2] == (1.0, CORRECT)


WRONG_ANSWERS = [
    ("chain_sum", "5"), ("chain_sum", "8 - 4"), ("chain_sum", "4 or 5"), ("chain_sum", "the answer is 4"), ("chain_sum", "42"),
    ("chain_sum", "2**2"), ("chain_sum", "__import__('os').getpid()"), ("chain_sum", "9**9**9**9"), ("chain_sum", "4" * 100_000),
    ("products", "914 * 807"), ("products", "about 737598"), ("products", "737598\n1"), ("products", "７３７５９８"),
    ("simple_equations", "34*z - 1190 = 2040"), ("simple_equations", "z = 95 or z = 96"), ("letter_counting", "4 5"),
    ("decimal_chain_sum", "12.2000001"), ("decimal_chain_sum", "12"),
    ("spell_backward", "gnisucxe"), ("spell_backward", "Excusing"), ("spell_backward", "gnisucxE gnisucxE"),
    ("spell_backward", "gnisucx"), ("spell_backward", "gnisucxE\u200b"), ("spell_backward", "\u202egnisucxE"), ("spell_backward", "gnisucxE\x00"),
    ("spell_backward", "the word is gnisucxE"), ("caesar_cipher", "most people"), ("caesar_cipher", "VXBC YNXYUN"),
    ("base_conversion", "03a0"), ("base_conversion", "3A0"), ("base_conversion", "0x3a0"), ("base_conversion", "637"),
    ("number_sorting", "['-94.2', '2.5', '30.9']"),  # its own scorer lets each number be wrong by 1
    ("number_sorting", "['-94.2', '2.5']"), ("number_sorting", "['30.0', '2.5', '-94.2']"), ("number_sorting", "['-94.2', '2.5', '30.0', '30.0']"),
    ("number_sorting", "[nan, nan, nan]"), ("number_sorting", "['-inf', '2.5', 'inf']"), ("number_sorting", "[[-94.2], 2.5, 30]"),
    ("number_sorting", "[__import__('os').abort(), 2.5, 30]"), ("number_sorting", "[9**9**9**9, 2.5, 30]"), ("number_sorting", "[" * 300 + "]" * 300),
    ("number_sorting", "sorted([2.5, -94.2, 30.0])"), ("number_sorting", "-94.2%, 2.5%, 30%"), ("number_sorting", "[" + "1," * 500_000 + "1]"),
    ("number_filtering", "['48.3']"), ("number_filtering", "none"),
    ("word_sorting", "Let, EXCEPT, where"), ("word_sorting", "except, let, where"), ("word_sorting", "EXCEPT Let where"),
    ("word_sorting", "EXCEPT, Let, where, where"), ("word_sorting", ", ".join(["EXCEPT", "Let", "where"] * 400)),
    ("word_sequence_reversal", "me, Verne, law"), ("word_sequence_reversal", "law,, Verne, me"),
    ("prime_factorization", "639"), ("prime_factorization", "9 × 71"), ("prime_factorization", "3 × 213"), ("prime_factorization", "1 × 3 × 3 × 71"),
    ("prime_factorization", "3^2 × 71"), ("prime_factorization", "-3 × -3 × 71"), ("prime_factorization", "3 × 3 × 71 = 639"),
    ("prime_factorization", " × ".join(["9" * 15] * 5000)), ("prime_factorization", "3**2 * 71"),
    ("prime_factorization", "3 × 71"), ("prime_factorization", "71"),
    ("countdown", "36"), ("countdown", "(5 + 7) * 4"), ("countdown", "(5 + 7) * 3 + 0"), ("countdown", "36 * 1"), ("countdown", "(5 + 7) * 3 - 5 + 5"),
    ("countdown", "9**9**9**9"), ("countdown", "__import__('time').sleep(60)"), ("countdown", "Symbol('x')"), ("countdown", "7 * 5 + 3 / 3"),
    ("countdown", "(" * 300 + "36" + ")" * 300), ("countdown", "[3, 5, 7] and 36"), ("countdown", "(lambda: 36)()"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "given"), WRONG_ANSWERS)
def test_a_wrong_or_hostile_answer_earns_nothing_and_takes_no_time(family, given):
    start = time.perf_counter()
    found = score(family, given)
    assert (found.value, found.verdict) in ((0.0, WRONG), (0.0, UNPARSEABLE))
    assert time.perf_counter() - start < 1.0


def test_countdown_wants_every_number_used():
    facts = {"numbers": [3, 5, 7], "target": 8}
    assert score("countdown", "3 + 5", facts=facts)[:2] == (0.0, WRONG)
    assert score("countdown", "3 + 5 + 7 - 7", facts=facts)[:2] == (0.0, WRONG)
    assert score("countdown", "3 + 5 + 7", facts=facts | {"target": 15})[:2] == (1.0, CORRECT)


@pytest.mark.parametrize(("family", "gold"), [(family, gold) for family, (_, gold) in ROWS.items()])
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "<think><answer>{}</answer></think>",
        "<think>so <answer>{}</answer>",
        "<answer>{}</answer><think>",
        "<think>so</think> <answer>{}",
        "<think>so</think> The answer is {}.",
        "<think>so</think> <answer></answer> {}",
        "<think>so</think> \\boxed{{{}}} or \\boxed{{17}}",
        "<think>so</think> <answer>not {}</answer>",
    ],
)
def test_a_right_answer_in_the_wrong_place_earns_nothing(family, gold, form):
    assert score(family, gold, form=form).value == 0.0


@pytest.mark.parametrize(
    ("family", "given", "share"),
    [
        ("number_sorting", "[-94.2, 30, 2.5]", 1 / 3),
        ("number_sorting", "[-94.2, 2.5, 31]", 2 / 3),
        ("word_sorting", "EXCEPT, Let, where, more", 3 / 4),  # what is too much counts too
        ("word_sorting", "where, EXCEPT, Let", 0),
        ("spell_backward", "gnisucxe", 0),  # only lists have parts
        ("prime_factorization", "9 × 71", 0),  # its own scorer pays 0.5 for any product
        ("products", "737597", 0),
        ("countdown", "5 + 7", 0),
    ],
)
def test_half_right_lists_earn_their_part_only_when_asked(family, given, share):
    assert score(family, given).value == 0.0
    found = score(family, given, partial=0.2)
    assert found.value == pytest.approx(0.2 * share)
    assert found.verdict in (WRONG, UNPARSEABLE)


@pytest.mark.parametrize("partial", [-0.1, 1.0, 5])
def test_a_partial_score_stays_below_a_right_answers(partial):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        score("number_sorting", "1", partial=partial)


@pytest.mark.parametrize("family", [*REFUSED, "rubiks_cube", "", "Chain_Sum"])
def test_a_family_without_a_rule_is_refused_by_name(family):
    with pytest.raises(ValueError, match=f"no scoring for the family '{family}'.*there are chain_sum") as error:
        reasoning_gym("<answer>1</answer>", answer="1", family=family)
    assert REFUSED.get(family, "no rule for it") in str(error.value)
    assert family not in FAMILIES


@pytest.mark.parametrize(
    "facts", ["", "{}", "[]", "null", '{"numbers": [1, 2]}', "{", {"target": 3}, '{"numbers": ["x"], "target": 3}']
)
def test_a_countdown_row_without_its_facts_is_named(facts):
    with pytest.raises(ValueError, match=r"facts as|no integer"):
        score("countdown", "1 + 2", facts=facts)


@pytest.mark.parametrize(
    "family", ["chain_sum", "spell_backward", "word_sorting", "number_sorting", "prime_factorization"]
)
def test_a_row_without_an_answer_is_named(family):
    with pytest.raises(ValueError, match="no reference answer"):
        reasoning_gym("<answer>1</answer>", answer=" ", family=family)


@pytest.mark.parametrize("family", ["prime_factorization", "number_sorting"])
def test_a_reference_that_its_rule_cannot_read_is_named(family):
    with pytest.raises(ValueError, match="the reference is no"):
        reasoning_gym("<answer>1</answer>", answer="see the figure", family=family)


def test_scoring_never_loads_the_package():
    before = "reasoning_gym" in sys.modules
    for family, (_, gold) in ROWS.items():
        score(family, gold)
    assert ("reasoning_gym" in sys.modules) == before
    assert REWARDS["reasoning_gym"] == "rewards.reasoning:reasoning_gym"
    assert COLUMNS["reasoning_gym"] == ("family", "facts")


# ------------------------------------------------------------------------------------------------ rows

QUICK = {"chain_sum": {"max_terms": 2, "max_digits": 2}, "number_sorting": {}, "gcd": {"max_value": 60}}


@pytest.fixture(scope="module", autouse=False)
def package():
    return pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")


def test_rows_of_the_two_sides_share_no_problem_whatever_the_seed(package):
    train = [row for seed in (1, 2) for row in reasoning.problems(QUICK, "train", 120, seed=seed)]
    held_out = [row for seed in (1, 3) for row in reasoning.problems(QUICK, "eval", 60, seed=seed)]
    assert not {reasoning.problem(row) for row in train} & {reasoning.problem(row) for row in held_out}
    assert {row["family"] for row in train} == {row["family"] for row in held_out} == set(QUICK)


def test_no_problem_comes_twice_and_the_same_call_gives_the_same_rows(package):
    rows = reasoning.problems(QUICK, "train", 100)
    assert len({reasoning.problem(row) for row in rows}) == len(rows) == 100
    assert rows == reasoning.problems(QUICK, "train", 100)
    assert [row["family"] for row in rows].count("chain_sum") == 34
    assert len({str(row["family"]) for row in rows[:12]}) > 1  # mixed


@pytest.mark.parametrize("family", [*reasoning.ARITHMETIC, *reasoning.WORDS, *reasoning.COUNTDOWN])
def test_every_row_that_a_recipe_can_name_is_right_with_its_reference_and_wrong_with_another(package, family):
    settings = {**reasoning.ARITHMETIC, **reasoning.WORDS, **reasoning.COUNTDOWN}[family]
    rows = reasoning.problems({family: settings}, "train", 8)
    answers = [str(row["answer"]) for row in rows]
    for row, other in zip(rows, [*answers[1:], answers[0]], strict=True):
        columns = {**row, "completion_tokens": 5}
        assert reasoning_gym(f"<answer>{row['answer']}</answer>", **columns)[:2] == (1.0, CORRECT)
        assert reasoning_gym(f"<answer>{other}</answer>", **columns).value == float(other == row["answer"])


def test_the_same_numbers_in_another_order_or_wording_are_one_problem():
    one = {"family": "chain_sum", "prompt": "What is 3 + 4 =", "facts": "{}"}
    assert reasoning.problem(one) == reasoning.problem(one | {"prompt": "What is 4 + 3 ="})
    assert reasoning.problem(one) != reasoning.problem(one | {"prompt": "What is 4 + 5 ="})
    game = {"family": "countdown", "prompt": "Make 36 of 3, 5, 7", "facts": FACTS}
    assert reasoning.problem(game) == reasoning.problem(game | {"prompt": "Using 7, 5, 3, reach 36"})
    other = game | {"facts": FACTS.replace("36", "38")}
    assert reasoning.problem(game) != reasoning.problem(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUICK, "test", 5), "must be train or eval"),
        ((QUICK, "train", 0), "at least one row"),
        (({}, "train", 5), "at least one family"),
        (({"propositional_logic": {}}, "train", 5), "a premise copied from the question"),
        (({"no_such_family": {}}, "train", 5), "no scoring for the family 'no_such_family'"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        reasoning.problems(*arguments)


@pytest.mark.parametrize(
    ("families", "count", "message"),
    [
        ({"chain_sum": {"min_terms": 5, "max_terms": 2}}, 5, "chain_sum with .*max_terms"),
        ({"chain_sum": {"no_such_setting": 2}}, 5, "no_such_setting"),
        ({"chain_sum": {"max_terms": 2, "max_digits": 1}}, 500, "only .* different problems"),
    ],
)
def test_settings_that_the_package_cannot_serve_are_named(package, families, count, message):
    with pytest.raises(BadInput, match=message):
        reasoning.problems(families, "train", count)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(BadInput, match="pip install"):
        reasoning.problems(QUICK, "train", 5)
