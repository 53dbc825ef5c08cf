"""Tests of code before anything runs: outputs and values compared, starter names found, hopeless rows refused."""

from __future__ import annotations

import json
import math

import pytest

from rewards.code_compare import MAX_DIGITS, long_integer, same_lines, same_output, same_value
from rewards.code_starters import node_classes, starters
from rewards.code_tests import INPUT_BYTES, OUTPUT_BYTES, check_row, language_of, read_json, read_tests
from rl.config import RewardConfig
from rl.scoring.reward_functions import unrewardable_rows

# ------------------------------------------------------------------------------------------------ printed output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1000000008", "1000000007"),
        ("1000000000000000000", "1000000000000000001"),
        ("1e+18", "1000000000000000001"),
        ("1000000000000000000.0", "1000000000000000001"),
        ("9007199254740993.0", "9007199254740992"),
        ("12345678901", "12345678902"),
        ("5.000004", "5"),
        ("2.5", "2"),
        ("-3", "3"),
        ("-0.5", "0.5"),
        ("11", "0011"),  # binary
        ("0011", "11"),
        ("7", "007"),
        ("100000", "1e5"),  # hexadecimal
        ("1e5", "100000"),
        ("0x10", "16"),
        ("1_000", "1000"),
        ("1,000", "1000"),
        ("3.1416", "3.14"),
        ("0.334", "0.333"),
        ("0.001", "0"),
        ("0", "0.0000005"),
        ("1e+400", "1e+500"),
        ("1e-400", "1e+5"),
        ("nan", "1"),
        ("inf", "1e+308"),
        ("1/2", "0.5"),
        ("1.0.0", "1"),
        ("12:30", "12:30.0"),
        ("True", "1"),
        ("Yes", "yes"),
        ("1 2", "12"),
        ("1\n2", "1 2"),
        ("1\n\n2", "1\n2"),
        ("1 2", "1 2 3"),
        ("", "0"),
        ("1.", "1.."),
        ("9" * 5000 + "8", "9" * 5000 + "9"),
        ("1." + "0" * 500, "1"),  # nobody prints that
    ],
)
def test_outputs_that_differ_are_not_the_same_as_numbers_either(given, expected):
    assert not same_output(given, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1.0", "1"),
        ("1", "1.0"),
        ("3.0000000000000004", "3"),
        ("0.30000000000000004", "0.3"),
        ("0.1666666667", "0.16666666666666666"),
        ("0.333333", "0.3333333333"),
        ("2e-05", "0.00002"),
        ("1e+16", "10000000000000000"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("+5", "5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("2.50", "2.5"),
        ("Case 1: 0.50\nCase 2: 3", "Case 1: 0.5\nCase 2: 3.0"),
        ("1  2.0\r\n3\r\n\r\n", "1 2\n3"),
        ("0.0000000000000001", "0"),
        ("nan", "nan"),
        ("9" * 5000, "9" * 5000),
        ("-" + "9" * 5000, "-" + "9" * 5000),
    ],
)
def test_numbers_in_outputs_compare_as_numbers(given, expected):
    assert same_output(given, expected)


def test_the_tolerance_is_a_setting_and_text_is_compared_without_it():
    assert not same_output("0.333333", "0.3333333333", 1e-9)
    assert same_output("0.3333", "0.3333333333", 1e-3)
    assert not same_lines("1.0", "1")


def test_a_megabyte_of_numbers_is_compared_in_a_moment():
    assert same_output("1.0 " * 250_000, "1 " * 250_000)
    assert not same_output("9" * 1_000_000, "9" * 1_000_000 + "1")
    assert not same_output("0." + "9" * 1_000_000, "0.5")


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (1e18, 10**18 + 1, False),
        (1e18, 10**18, True),
        (1e300, 10**300 + 1, False),
        (9007199254740992.0, 9007199254740993, False),
        (4.000000001, 4, True),
        (4.001, 4, False),
        (math.inf, 10**400, False),
        (math.nan, 0, False),
        (10**400, math.inf, False),
        (3.0000000000000004, 3, True),
    ],
)
def test_a_whole_number_is_exact_whatever_its_size(value, expected, same):
    assert same_value(value, expected) is same


def test_whole_numbers_of_thousands_of_digits_are_read_and_more_are_refused():
    assert same_value(10**5000, 10**5000)
    assert not same_value(10**5000, 10**5000 + 1)
    assert long_integer("-" + "7" * 5000) == -int("7" * 2500) * (10**2500 + 1)
    assert read_json(f'[{"3" * 5000}, 1.5, "{"3" * 5000}"]')[0] % 1000 == 333
    with pytest.raises(ValueError, match="20001 digits"):
        read_json("1" * (MAX_DIGITS + 1))


# ------------------------------------------------------------------------------------------------ starter names


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def f(a: List[int]) -> Optional[int]: pass", "from typing import List\nfrom typing import Optional"),
        ("d = defaultdict(list)", "from collections import defaultdict"),
        ("print(math.gcd(2, inf))", "import math\nfrom math import inf"),
        ("x.split(); y.count(1); a.heappush", ""),
        ("print(sum([1]), input())", ""),
        ("print(eval('Counter()'))", "from collections import Counter"),
    ],
)
def test_only_what_a_program_mentions_comes_before_it(text, lines):
    assert starters([text]).strip() == lines


def test_every_starter_name_is_there_and_the_nodes_are_leetcodes():
    from rewards.code_starters import _HOME, _MODULES

    scope: dict[str, object] = {}
    exec(starters([*_HOME, *_MODULES, "ListNode", "TreeNode"]), scope)
    assert {*_HOME, *_MODULES, "ListNode", "TreeNode"} <= scope.keys()
    node = scope["ListNode"](1, scope["ListNode"]())
    assert (node.val, node.next.val, node.next.next) == (1, 0, None)
    assert vars(scope["TreeNode"](3)) == {"val": 3, "left": None, "right": None}


def test_the_classes_of_the_setup_may_be_handed_over():
    assert node_classes("class A:\n  class B(A): pass\nprint('class C')") == ["A", "B", "ListNode", "TreeNode"]


# ------------------------------------------------------------------------------------------------ hopeless rows

IO = [{"input": "1", "output": "2"}]
CALL = [{"call": [1], "expected": 2}]
CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"

REFUSED = {
    "no tests": ({}, "tests: neither a list of"),
    "a function's tests as a program's": ({"tests": IO, "entry_point": "f"}, "entry_point='f' asks for a function"),
    "a function's tests by their mark": ({"tests": [{**IO[0], "testtype": "functional"}]}, "test 1 is for a function"),
    "a function's tests by another mark": ({"tests": [{**IO[0], "type": "function_call"}]}, "test 1 is for a function"),
    "a function's tests by its name": ({"tests": [{**IO[0], "fn_name": "f"}]}, "test 1 is for a function"),
    "a list for an output": ({"tests": [*IO, {"input": "1", "output": ["2"]}]}, "the output of test 2 is a list"),
    "a list for an input": ({"tests": [{"input": [1], "output": "2"}]}, "the input of test 1 is a list"),
    "nothing for an output": ({"tests": [{"input": "1", "output": None}]}, "the output of test 1 is a NoneType"),
    "a truth for an output": ({"tests": [{"input": "1", "output": True}]}, "the output of test 1 is a bool"),
    "a table for an output": ({"tests": [{"input": "1", "output": {"a": 1}}]}, "the output of test 1 is a dict"),
    "lists in JSON": ({"tests": '[{"input": ["1"], "output": ["2"]}]'}, "the input of test 1 is a list"),
    "too much output": ({"tests": [*IO, {"input": "1", "output": "a" * (OUTPUT_BYTES + 1)}]}, "test 2: its output has more"),
    "too much input": ({"tests": [{"input": "a" * (INPUT_BYTES + 1), "output": "2"}]}, "test 1: its input has more"),
    "too large a result": ({"tests": [{"call": [1], "expected": "a" * OUTPUT_BYTES}], "entry_point": "f"}, "test 1: its expected value has more"),
    "too long a number": ({"tests": [{"call": [1], "expected": 10**MAX_DIGITS}], "entry_point": "f"}, "digits; at most"),
    "too long a number in JSON": ({"tests": f'[{{"call": [1], "expected": {"1" * 30_000}}}]', "entry_point": "f"}, "30000 digits"),
    "what equals nothing": ({"tests": [{"call": [1], "expected": math.nan}], "entry_point": "f"}, "none that a function's result"),
    "a tuple": ({"tests": [{"call": [1], "expected": [(1, 2)]}], "entry_point": "f"}, "none that a function's result"),
    "a set": ({"tests": [{"call": [1], "expected": {1}}], "entry_point": "f"}, "none that can be compared"),
    "numbers for keys": ({"tests": [{"call": [1], "expected": {1: 2}}], "entry_point": "f"}, "none that a function's result"),
    "an object for an argument": ({"tests": [{"call": [object()], "expected": 1}], "entry_point": "f"}, "its arguments are no plain values"),
    "no function named": ({"tests": CALL}, "entry_point: '' names no function"),
    "a call for a function's name": ({"tests": CHECK, "entry_point": "f(1)"}, "names no function"),
    "a function in C++": ({"tests": CALL, "entry_point": "f", "language": "cpp"}, "which only Python programs"),
    "an unknown language": ({"tests": IO, "language": "perl"}, "language: 'perl'"),
    "a check program that is none": ({"tests": "def check(candidate) assert", "entry_point": "f"}, "tests: it does not compile"),
    "a check program's packages": ({"tests": "import numpy as np\n" + CHECK, "entry_point": "f"}, "it imports numpy"),
    "a setup that is none": ({"tests": IO, "setup": "def f(x)"}, "setup: it does not compile"),
    "a setup's packages": ({"tests": IO, "setup": "from scipy.special import comb"}, "it imports scipy"),
    "a checker that is none": ({"tests": IO, "checker": "print(1)"}, "checker: it defines no check()"),
    "a checker of functions": ({"tests": CALL, "entry_point": "f", "checker": CHECK}, "checker: it is for what programs print"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_row_that_no_program_can_pass_is_refused_with_its_reason(kind):
    row, reason = REFUSED[kind]
    assert reason in (check_row(row) or "")


@pytest.mark.parametrize(
    "row",
    [
        {"tests": IO},
        {"tests": json.dumps(IO), "entry_point": None, "setup": None, "language": None, "checker": None},
        {"tests": [{"input": 1, "output": 2.5}]},
        {"tests": [{"input": "", "output": "", "testtype": "stdin"}], "language": "C++", "setup": "#include <vector>"},
        {"tests": [{"input": "a" * OUTPUT_BYTES, "output": "a" * OUTPUT_BYTES}]},
        {"tests": CALL, "entry_point": "f"},
        {"tests": CALL, "entry_point": "Solution.f", "setup": "import collections"},
        {"tests": [{"call": {"a": [1]}, "expected": {"b": [None, True, "x", 1.5]}}], "entry_point": "f"},
        {"tests": [{"call": [10**5000], "expected": [10**5000]}], "entry_point": "f"},
        {"tests": CHECK, "entry_point": "Solution().f"},
        {"tests": IO, "checker": "def check(input, output, expected):\n    return True\n"},
        {"tests": "try:\n    import numpy\nexcept ImportError:\n    pass\n" + CHECK, "entry_point": "f"},
    ],
)
def test_a_row_that_a_program_may_pass_is_taken(row):
    assert check_row(row) is None


def test_the_rewards_settings_count_in_the_refusal():
    row = {"tests": "import numpy as np\n" + CHECK, "entry_point": "f"}
    assert check_row(row, packages=["numpy"], test_s=3) is None
    assert "only Python" in (check_row({"tests": CALL, "entry_point": "f", "language": "python"}, language="c++") or "")


def test_hopeless_rows_are_named_before_a_run_and_others_are_not_asked():
    rows = [
        {"domain": "code", "tests": IO},
        {"domain": "code", "tests": IO, "entry_point": "f"},
        {"domain": "math"},
        {"domain": "code", "tests": "import numpy\n" + CHECK, "entry_point": "f"},
    ]
    code = RewardConfig("code_accuracy", domains=("code",))
    found = unrewardable_rows((code, RewardConfig("format")), rows, [""] * 4)
    assert list(found) == [1, 3]
    assert "asks for a function" in found[1]
    code = RewardConfig("rewards.code:code_accuracy", domains=("code",), options=('packages=["numpy"]',))
    assert list(unrewardable_rows((code, RewardConfig("format")), rows, [""] * 4)) == [1]


def test_tests_in_other_rows_words_are_read():
    assert read_tests(tuple(IO)) == ("io", [("1", "2")])
    assert read_tests([{"input": 1, "output": 2.5}]) == ("io", [("1", "2.5")])
    assert [language_of(name) for name in (None, "", "Python", "py", "C++", "cpp")] == ["python"] * 4 + ["c++"] * 2
