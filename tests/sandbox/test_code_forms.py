"""What reaches a program in each form of tests, how deep it may go, and how soon a wrong one is given up."""

from __future__ import annotations

import json
import time

import pytest

from rewards.code import code_accuracy
from rewards.sandbox_view import SandboxError
from rewards.types import CORRECT, WRONG
from tests.sandbox.test_sandbox import why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="session", autouse=True)
def _ray_cluster():
    """In place of the other integration tests' cluster: none is needed here."""


def score_of(code: str, tests: object, entry_point: str = "f", **row: object):
    tag = "cpp" if row.get("language") == "c++" else "python"
    return code_accuracy(f"```{tag}\n{code}\n```", tests=tests, entry_point=entry_point, **row)


FORMS = {
    "io": [{"input": "4", "output": "5"}],
    "call": [{"call": [4], "expected": 5}],
    "check": "def check(candidate):\n    assert candidate(4) == 5\n",
}
MAIN = "\nif __name__ == '__main__': print(f(int(input())))"

# ------------------------------------------------------------------------------------------------ hostile first


@pytest.mark.parametrize("form", ["call", "check"])
@pytest.mark.parametrize(
    ("setup", "entry_point"),
    [
        ("def f(x):\n    return 5", "f"),  # HumanEval's prompt defines the function's name
        ("class Solution:\n    def f(self, x):\n        return 5", "Solution().f"),
        ("", "add"),  # a starter name
        ("", "math.floor"),
    ],
)
def test_what_the_candidate_does_not_define_is_no_answer(form, setup, entry_point):
    score = score_of("x = 1", FORMS[form], entry_point, setup=setup)
    assert (score.value, score.verdict) == (0.0, WRONG)


@pytest.mark.parametrize("result", ["Any()", "type('ListNode', (Any,), {})()", "[Any()]", "type('Other', (), {})()"])
def test_an_object_equal_to_all_does_not_reach_the_check_program_by_the_name_of_a_node(result):
    code = f"class Any:\n  val = next = 5\n  def __eq__(self, other): return True\ndef f(x): return {result}"
    tests = "def check(candidate):\n    assert candidate(4) == ListNode(5)\n"
    assert score_of(code, tests).verdict == WRONG


@pytest.mark.parametrize(
    "forged", ["b'%012d%012d5' % (0, 1)", "b'%012d%012d' % (0, 0)", "b'9' * 24", "b'0' * 24 * 9", "b'x' * 4000"]
)
def test_what_a_candidate_writes_to_the_harness_is_a_value_at_most_and_compared(forged):
    code = f"""
import os
def f(x):
    for fd in range(3, 64):
        try: os.write(fd, {forged})
        except OSError: pass
    return x
"""
    tests = [{"call": [i], "expected": i} for i in (3, 4)]
    assert score_of(code, tests, test_s=1).verdict == WRONG
    assert score_of(code.replace("range(3, 64)", "()"), tests).verdict == CORRECT


@pytest.mark.parametrize("output", ["x", "", "7 " * 1000, "1 6 0", "__import__('os')._exit(0)"])
def test_a_checker_that_cannot_read_an_output_refuses_it(output):
    checker = "def check(input, output, expected):\n    a, b = map(int, output.split())\n    return a + b == int(input)"
    tests = [{"input": "7", "output": "1 6"}]
    score = score_of(f"print({output!r})", tests, "", checker=checker)
    assert (score.value, score.verdict) == (0.0, WRONG)
    assert "the checker" in score.reason
    assert score_of("print(3, 4)", tests, "", checker=checker).verdict == CORRECT
    assert score_of("print(3, 5)", tests, "", checker=checker).verdict == WRONG


def test_a_checker_decides_each_test_by_itself_and_is_never_in_the_candidates_sandbox():
    checker = "def check(input, output, expected):\n    hidden = 'a mark of the checker'\n    return output.strip() in expected.split('|')"
    tests = [{"input": str(i), "output": f"{i}|{i + 1}"} for i in range(4)]
    code = "i = int(input())\nprint(i + (i == 1) + 5 * (i == 2))"
    assert score_of(code, tests, "", checker=checker, score="share").value == 0.75
    look = "import gc, sys\nprint(''.join(['mark of', ' the checker']) in repr(gc.get_objects()) + repr(sys._getframe().f_globals))"
    assert score_of(look, [{"input": "", "output": "False"}], "", checker=checker).verdict == CORRECT


# ------------------------------------------------------------------------------------------------ names


STARTERS = [
    "List[int]", "Optional[int]", "defaultdict(int)", "Counter()", "deque()", "heappush([], 1)", "math.inf", "inf",
    "gcd(4, 6)", "collections.OrderedDict()", "lru_cache(None)", "accumulate([1])", "bisect_left([1], 1)",
    "itertools.chain()", "functools.reduce", "cmp_to_key(f)", "string.digits", "re.sub", "ascii_lowercase",
    "random.random()", "sys.maxsize", "ListNode(1)", "TreeNode(1, None, TreeNode())", "Tuple[int, ...]", "heapq.heapify",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_starter_names_reach_the_candidate(form):
    uses = "\n    ".join(STARTERS)
    code = f"def f(x: Union[int, str]) -> Any:\n    {uses}\n    return x + 1" + MAIN
    assert score_of(code, FORMS[form]).reason == ""


@pytest.mark.parametrize("form", FORMS)
def test_the_rows_setup_reaches_the_candidate(form):
    setup = "import string\nLIMIT = 1\ndef helper(x):\n    return x + LIMIT\n"
    code = "def f(x):\n    string.digits\n    return helper(x)" + MAIN
    assert score_of(code, FORMS[form], setup=setup).reason == ""
    assert score_of(code, FORMS[form]).verdict == WRONG


def test_a_setup_comes_before_a_cpp_program():
    setup = "#include <iostream>\nint helper(int x) { return x + 1; }"
    code = "int main() { int x; std::cin >> x; std::cout << helper(x); }"
    assert score_of(code, FORMS["io"], "", setup=setup, language="c++").reason == ""


def test_a_candidates_own_definitions_go_before_starters_and_setup():
    code = "def helper(x): return x + 1\ndef gcd(a, b): return 0\ndef f(x): return helper(x) + gcd(4, 6)"
    assert score_of(code, FORMS["call"], setup="def helper(x): return 0").reason == ""


LISTS = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
def make(values):
    head = None
    for value in reversed(values): head = ListNode(value, head)
    return head
def same(a, b):
    while a and b and a.val == b.val: a, b = a.next, b.next
    return a is None and b is None
class Graph:
    def __init__(self, val): self.val, self.neighbors = val, []
"""
REVERSE = """
class Solution:
    def reverse(self, head: Optional[ListNode]) -> Optional[ListNode]:
        last = None
        while head: head.next, last, head = last, head, head.next
        return last
"""
SAME = "def check(candidate):\n    for n in (0, 1, 5, 3000):\n        assert same(candidate(head=make(range(n))), make(range(n)[::-1]))"


@pytest.mark.parametrize("entry_point", ["Solution().reverse", "Solution.reverse"])
def test_linked_lists_go_to_the_candidate_of_a_check_program_and_back(entry_point):
    assert score_of(REVERSE, SAME, entry_point, setup=LISTS).reason == ""
    assert score_of(REVERSE.replace("return last", "return head"), SAME, entry_point, setup=LISTS).verdict == WRONG


def test_a_graph_with_circles_goes_to_the_candidate_and_back():
    tests = """
def check(candidate):
    a, b = Graph(1), Graph(2)
    a.neighbors, b.neighbors = [b], [a, b]
    found = candidate(a)
    assert type(found) is Graph and found.neighbors[0].neighbors[0] is found
    assert [n.val for n in found.neighbors[0].neighbors] == [1, 2]
"""
    assert score_of("def f(node): return node", tests, setup=LISTS).reason == ""
    assert score_of("def f(node): return None", tests, setup=LISTS).verdict == WRONG


@pytest.mark.parametrize(
    ("code", "call", "expected"),
    [
        (REVERSE, [[1, 2, 3]], [3, 2, 1]),
        (REVERSE, {"head": [1, 2]}, [2, 1]),
        (REVERSE, [[]], []),
        ("class Solution:\n def f(self, root: 'TreeNode') -> int:\n  return root.left.val + root.right.left.val", [[1, 2, 3, None, None, 4]], 6),
        ("class Solution:\n def f(self, root: Optional[TreeNode]) -> Optional[TreeNode]:\n  if root: root.left, root.right = self.f(root.right), self.f(root.left)\n  return root", [[4, 2, 7, 1, None, 6, 9]], [4, 7, 2, 9, 6, None, 1]),
        ("class Solution:\n def f(self, lists: List[Optional[ListNode]], k: int = 0) -> Optional[ListNode]:\n  return lists[k]", [[[1], [2, 3], []], 1], [2, 3]),
        ("class Solution:\n def f(self, values: List[int]) -> List[int]:\n  return values[::-1]", [[1, 2]], [2, 1]),
    ],
)  # fmt: skip
def test_lists_become_linked_lists_and_trees_where_a_function_asks_for_them(code, call, expected):
    entry_point = "Solution.reverse" if "reverse" in code else "Solution.f"
    assert score_of(code, [{"call": call, "expected": expected}], entry_point).reason == ""
    assert (
        score_of(
            code, [{"call": call, "expected": [*expected, 9] if isinstance(expected, list) else 7}], entry_point
        ).verdict
        == WRONG
    )


def test_a_linked_list_in_a_circle_is_a_wrong_answer():
    code = "def f(head: ListNode) -> ListNode:\n    head.next = head\n    return head"
    assert "goes in a circle" in score_of(code, [{"call": [[1]], "expected": [1]}]).reason


# ------------------------------------------------------------------------------------------------ depth, numbers


DEEP = {
    "C++": ("c++", "#include <cstdio>\nint g(int n, volatile char *p) { volatile char b[200]; b[n % 200] = 1; return n == 0 ? 0 : g(n - 1, b) + b[n % 200]; }\nint main() { volatile char c[2]; std::printf(\"%d\", g(200000, c)); }"),
    "Python": ("python", "def g(n): return 0 if n == 0 else 1 + g(n - 1)\nprint(g(200_000))"),
    "Python, through C": ("python", "@lru_cache(None)\ndef g(n): return 0 if n == 0 else 1 + g(n - 1)\nprint(g(200_000))"),
    "a thread with a stack of its own": ("python", "import threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\ndef g(n): return 0 if n == 0 else 1 + g(n - 1)\nt = threading.Thread(target=lambda: print(g(200_000)))\nt.start(); t.join()"),
    "threads without": ("python", "import threading\nts = [threading.Thread(target=lambda: None) for _ in range(20)]\n[t.start() for t in ts]; [t.join() for t in ts]\nprint(200_000)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEEP)
def test_the_stack_goes_as_deep_as_the_memory(kind):
    language, code = DEEP[kind]
    assert score_of(code, [{"input": "", "output": "200000"}], "", language=language).reason == ""


@pytest.mark.parametrize("form", FORMS)
def test_recursion_without_end_is_a_wrong_answer_and_soon(form):
    start = time.monotonic()
    score = score_of("def f(x): return f(x + 1)" + MAIN, FORMS[form])
    assert score.verdict == WRONG
    assert time.monotonic() - start < 8


def test_whole_numbers_of_five_thousand_digits_are_printed_returned_and_compared():
    long, longer = "7" * 5000, "7" * 5001
    assert score_of("print(int(input()) * 10 + 7)", [{"input": long, "output": longer}], "").reason == ""
    code = "def f(x): return x * 10 + 7"
    tests = f'[{{"call": [{long}], "expected": {longer}}}]'
    assert score_of(code, tests).reason == ""
    assert score_of(code.replace("+ 7", "+ 8"), tests).verdict == WRONG
    check = "def check(candidate):\n    assert candidate(10**5000) == 10**5001 + 7\n    str(candidate(10**5000))"
    assert score_of(code, check).reason == ""
    assert score_of(code.replace("+ 7", "+ 8"), check).verdict == WRONG


def test_numbers_in_printed_output_compare_as_numbers_unless_the_setting_says_text():
    tests = [{"input": "3", "output": "1.5"}]
    code = "print('%.9f' % (int(input()) / 2))"
    assert score_of(code, tests, "").verdict == CORRECT
    assert score_of(code, tests, "", numbers=False).verdict == WRONG
    assert score_of(code.replace("/ 2", "/ 2.001"), tests, "").verdict == WRONG
    assert score_of(code.replace("/ 2", "/ 2.001"), tests, "", tolerance=0.01).verdict == CORRECT


NUMPY = "import numpy as np\ndef f(x): return np.arange(x + 1).sum() - 5" + MAIN


@pytest.mark.parametrize("form", FORMS)
def test_numpy_is_there_by_request_alone(form):
    assert score_of(NUMPY, FORMS[form], packages=["numpy"]).reason == ""
    assert "numpy" in score_of(NUMPY, FORMS[form]).reason


def test_a_package_in_a_folder_that_only_its_owner_may_enter_is_shown(tmp_path, monkeypatch):
    (tmp_path / "aha_private.py").write_text("VALUE = 5")
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "import aha_private\ndef f(x): return aha_private.VALUE" + MAIN
    for form in FORMS.values():
        assert score_of(code, form, packages=["aha_private", "numpy"]).reason == ""
    assert "aha_private" in score_of(code, FORMS["io"]).reason


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(SandboxError, match="'no_such_package' is not installed"):
        score_of(NUMPY, FORMS["io"], packages=["no_such_package"])


# ------------------------------------------------------------------------------------------------ time


@pytest.mark.parametrize("form", ["io", "call"])
def test_a_run_ends_at_the_first_wrong_value(form):
    code = "import time\ndef f(x):\n    time.sleep(0.4)\n    return x" + MAIN
    expected = [0, 7, *range(2, 40)]  # the second is wrong
    tests = [
        {"input": str(i), "output": str(value)} if form == "io" else {"call": [i], "expected": value}
        for i, value in enumerate(expected)
    ]
    start = time.monotonic()
    score = score_of(code, tests)
    assert score.reason.startswith("test 2: ")
    assert time.monotonic() - start < 5
    share = score_of(code.replace("0.4", "0"), tests, score="share")
    assert share.value == pytest.approx(39 / 40)


def test_calls_are_as_fast_as_a_check_program():
    code, count = "def f(x): return x + 1", 200
    calls = [{"call": [i], "expected": i + 1} for i in range(count)]
    check = "def check(candidate):\n" + "".join(f"    assert candidate({i}) == {i + 1}\n" for i in range(count))

    def seconds(tests: object) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert score_of(code, tests).verdict == CORRECT
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(calls) < 1.5 * seconds(check)


def test_a_call_that_dies_or_hangs_costs_its_own_test_alone():
    code = """
import os
def f(x):
    if x == 1: raise OSError("gone")
    if x == 2: os._exit(3)
    if x == 3:
        while True: pass
    if x == 4: exit()
    return x
"""
    tests = [{"call": [i], "expected": i} for i in range(8)]
    score = score_of(code, json.dumps(tests), score="share", test_s=1)
    assert score.value == 0.5
    assert score.reason == "test 2: OSError: gone"


def test_the_cpu_time_of_many_calls_is_that_of_them_all():
    code = "import time\ndef f(x):\n    end = time.process_time() + 0.2\n    while time.process_time() < end: pass\n    return x"
    assert score_of(code, [{"call": [i], "expected": i} for i in range(8)], test_s=1).reason == ""


METHOD = """
class Solution:
    def f(self, head: Optional[ListNode]) -> Optional[ListNode]:
        before = None
        while head:
            head.next, before, head = before, head, head.next
        return before
"""


@pytest.mark.parametrize("entry_point", ["f", "Solution.f", "Solution().f"])
def test_a_method_of_solution_is_found_by_its_name_alone(entry_point):
    tests = [{"call": [[1, 2, 3]], "expected": [3, 2, 1]}]
    assert score_of(METHOD, tests, entry_point).verdict == CORRECT
    assert score_of(METHOD.replace("return before", "return None"), tests, entry_point).verdict == WRONG


def test_a_solution_of_the_rows_setup_is_no_answer():
    setup = "class Solution:\n    def f(self, x): return x + 1"
    tests = [{"call": [1], "expected": 2}]
    assert score_of("print(1)", tests, setup=setup).verdict == WRONG
    assert score_of("def f(x): return x + 1", tests, setup=setup).verdict == CORRECT
