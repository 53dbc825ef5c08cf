"""Reading the code and the tests, comparing, and refusing: what needs no sandbox."""

from __future__ import annotations

import json
import math
import os

import pytest

from rewards import sandbox_view
from rewards.code import code_accuracy, last_code, read_tests, same_lines, same_value
from rewards.code_agent import _pack, _unpack, read_results
from rewards.sandbox import Limits, run
from rewards.sandbox_view import SandboxError, python
from rewards.types import UNPARSEABLE

IO = [{"input": "1", "output": "2"}]
CALL = [{"call": [1], "expected": 2}]


@pytest.mark.parametrize(
    ("text", "language", "code"),
    [
        ("```python\na\n```", "python", "a\n"),
        ("```py\na\n```", "python", "a\n"),
        ("``` Python3 \na\n```", "python", "a\n"),
        ("```\na\n```", "python", "a\n"),
        ("```python\na\n```\n```python\nb\n```", "python", "b\n"),
        ("```python\na\n```\nIt prints\n```\nb\n```", "python", "a\n"),
        ("```python\na\n```\n```bash\npip\n```", "python", "a\n"),
        ("```python\na\n```\n```python\n \n```", "python", "a\n"),
        ("````python\n```\na\n```\n````", "python", "```\na\n```\n"),
        ("```python\na", "python", None),
        ("```python\na\n```\n```python\nb", "python", "a\n"),
        ("a", "python", None),
        ("`a`", "python", None),
        ("```a```", "python", None),
        ("```cpp\na\n```", "python", None),
        ("```cpp\na\n```", "c++", "a\n"),
        ("```c++\na\n```", "c++", "a\n"),
        ("```python\na\n```", "c++", None),
    ],
)
def test_the_code_is_the_last_closed_block_of_the_language(text, language, code):
    assert last_code(text, language) == code


def test_a_hostile_text_of_fences_is_read_in_a_moment():
    assert last_code("`" * 1_000_000 + "\n" + "```python\n" * 100_000, "python") is None


@pytest.mark.parametrize(
    ("tests", "found"),
    [
        (IO, ("io", [("1", "2")])),
        (json.dumps(IO), ("io", [("1", "2")])),
        (CALL, ("call", [([1], 2)])),
        (json.dumps(CALL), ("call", [([1], 2)])),
        ([{"call": "[1, 2]", "expected": "3"}], ("call", [([1, 2], "3")])),
        ([{"call": {"a": 1}, "expected": None}], ("call", [({"a": 1}, None)])),
        ("def check(candidate):\n    pass", ("check", ["def check(candidate):\n    pass"])),
        (json.dumps("def check(candidate): 1"), ("check", ["def check(candidate): 1"])),
    ],
)
def test_tests_are_read_in_each_of_their_forms(tests, found):
    assert read_tests(tests) == found


@pytest.mark.parametrize(
    "tests", ["", "[]", [], None, 3, "assert f(1) == 2", [{"input": "1"}], [*IO, *CALL], [{"call": 1, "expected": 2}]]
)
def test_tests_of_another_form_are_refused(tests):
    with pytest.raises(ValueError, match="tests: neither a list of"):
        read_tests(tests)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1 2\n", "1  2", True),
        ("1\r\n2\r\n\r\n", "1\n2", True),
        ("\n1", "1", True),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1\n2", False),
        ("12", "1 2", False),
        ("1.0", "1", False),
        ("Yes", "yes", False),
        ("", "0", False),
    ],
)
def test_outputs_are_the_same_but_for_spaces(one, other, same):
    assert same_lines(one, other) is same


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (3, 3, True),
        (3.0, 3, True),
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (10**400, 1.5, False),
        (10**400, 10**400, True),
        (math.inf, math.inf, True),
        (math.nan, 1.0, False),
        (True, 1, False),
        (1, True, False),
        (1.0, True, False),
        (True, True, True),
        ("3", 3, False),
        ("3.0", 3.0, False),
        (None, False, False),
        (None, None, True),
        ([1, [2.0]], [1, [2]], True),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ([], {}, False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
    ],
)
def test_values_are_equal_by_value_and_by_kind(value, expected, same):
    assert same_value(value, expected) is same


@pytest.mark.parametrize(
    "value", [None, True, 3, 2.5, "a", [1, (2, {3})], {(1, 2): frozenset("a")}, b"\x00\xff", 1 + 2j, {}]
)
def test_a_plain_value_survives_the_way_to_the_check_program(value):
    back = _unpack(json.loads(json.dumps(_pack(value))))
    assert back == value
    assert type(back) is type(value)


def test_a_value_with_an_equality_of_its_own_does_not_reach_the_check_program():
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

    class EqualInt(int):
        def __eq__(self, other: object) -> bool:
            return True

    with pytest.raises(TypeError, match="a Equal cannot be handed"):
        _pack([Equal()])
    assert (_unpack(json.loads(json.dumps(_pack(EqualInt(3))))) == 4) is False


@pytest.mark.parametrize(
    ("completion", "prompt", "reason"),
    [
        ("print(2)", "", "no closed ``` block"),
        ("<think>```python\nprint(2)\n```", "", "the thinking never ends"),
        ("```python\nprint(2)\n```", "<think>", "the thinking never ends"),
        ("<think>\n```python\nprint(2)\n```\n</think>\ndone", "", "no closed ``` block"),
        ("```python\nprint(2)\n```\n<answer>see above</answer>", "", "no closed ``` block"),
    ],
)
def test_a_completion_without_code_in_its_answer_is_unparseable(completion, prompt, reason):
    score = code_accuracy(completion, prompt=prompt, tests=IO)
    assert (score.value, score.verdict) == (0.0, UNPARSEABLE)
    assert reason in score.reason


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tests": IO, "language": "perl"}, "language: 'perl'"),
        ({"tests": IO, "score": "some"}, "score: 'some'"),
        ({"tests": CALL}, "need an entry_point"),
        ({"tests": CALL, "entry_point": "f", "language": "c++"}, "language='python'"),
        ({"tests": [1]}, "tests: neither"),
    ],
)
def test_wrong_arguments_are_refused_by_name(keywords, message):
    with pytest.raises(ValueError, match=message):
        code_accuracy("```python\nprint(2)\n```", **keywords)


def test_without_bubblewrap_the_reward_refuses_to_run(monkeypatch):
    found = sandbox_view.shutil.which
    monkeypatch.setattr(
        sandbox_view.shutil, "which", lambda name, path: None if name == "bwrap" else found(name, path=path)
    )
    with pytest.raises(SandboxError, match=r"apt-get install bubblewrap.*run_untrusted_code_without_sandbox=True"):
        code_accuracy("```python\nprint(2)\n```", tests=IO)
    score = code_accuracy("```python\nprint(2)\n```", tests=IO, run_untrusted_code_without_sandbox=True)
    assert score.value == 1.0


def plain(source: str, **limits):
    return run([python(), "-I", "-c", source], limits=Limits(**limits), run_untrusted_code_without_sandbox=True)


def test_a_plain_run_has_limits_a_clean_environment_and_a_folder_that_goes(monkeypatch):
    monkeypatch.setenv("AHA_SECRET", "planted")
    ran = plain("import os; open('a', 'w'); print(os.getcwd(), 'AHA_SECRET' in os.environ)")
    folder, seen = ran.stdout.decode().split()
    assert (ran.status, ran.limit, seen) == (0, "", "False")
    assert not os.path.exists(folder)
    assert plain("import time; time.sleep(60)", wall_s=0.3).limit == "wall time"
    assert plain("while True: pass", cpu_s=1).limit == "CPU time"
    assert plain("bytearray(1 << 30)", memory_mb=256).stderr.strip().endswith(b"MemoryError")
    assert plain("print('a' * 100_000)", output_bytes=1000).limit == "output"


def test_a_program_that_closes_its_pipes_and_stays_is_ended():
    ran = plain("import os, time; os.close(1); os.close(2); time.sleep(60)", wall_s=0.5)
    assert (ran.limit, ran.status) == ("wall time", None)
    assert ran.seconds < 10


def test_a_child_that_outlives_a_plain_run_does_not_hold_it_up():
    ran = plain("import os, time\nif os.fork() == 0: time.sleep(60)", wall_s=30)
    assert (ran.status, ran.limit) == (0, "")
    assert ran.seconds < 10


def test_the_job_and_the_results_have_descriptors_of_their_own():
    echo = "import os, sys; job, results = map(int, sys.argv[1:]); os.write(results, os.read(job, 99)[::-1])"
    ran = run([python(), "-I", "-c", echo], job=b"abc", run_untrusted_code_without_sandbox=True)
    assert (ran.results, ran.stdout) == (b"cba", b"")


def test_no_descriptor_is_left_open_by_a_run():
    before = os.listdir("/proc/self/fd")
    plain("print(1)")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"000000000005000000000000ready", [("ready", "")]),
        (b"000000000005000000000000ready000000000000000000000003abc", [("ready", ""), ("", "abc")]),
        (b"000000000000000000000002\xff\n", [("", "\ufffd\n")]),  # what a program wrote need be no text
        (b"000000000005000000000000read", []),  # the harness was ended while it wrote
        (b"000000000005000000000000ready0000", [("ready", "")]),
        (b"000000000005000000000000ready" + b"x" * 24, [("ready", "")]),
    ],
)
def test_results_are_read_up_to_the_last_whole_pair(data, found):
    assert read_results(data) == found
