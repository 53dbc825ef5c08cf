"""The tools that come along: a calculator that never evaluates, and search in a local file. Python: tests/sandbox."""

from __future__ import annotations

import pytest

from rewards import tools
from rewards.tools import Search, calculator, index
from rl.config import EnvironmentConfig
from rl.environments.definition import Definition


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(3 + 4) * 12", "84"),
        ("12345 * 67890 - -1", "838102051"),
        ("1 / 3", "1/3 = 0.3333333333"),
        ("0.1 + 0.2", "3/10 = 0.3"),
        ("2 ** 10 // 3 % 100", "41"),
        ("2 ** -2", "1/4 = 0.25"),
    ],
)
def test_the_calculator_is_exact(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')", "a + 1", "[1]", "'1'", "True + 1", "9 ** 9 ** 9", "2 ** 0.5", "1 +", "", "f(2)",
        "1e400 * 1e400", "(" * 400, "1;2", "10 ** 299 * 10 ** 299", "3 if 1 else 2", "1j",
    ],
)  # fmt: skip
def test_the_calculator_refuses_what_is_no_arithmetic_or_too_large(expression):
    with pytest.raises(ValueError):  # noqa: PT011
        calculator(expression)


def test_the_calculator_says_that_it_cannot_divide_by_zero():
    with pytest.raises(ZeroDivisionError):
        calculator("1 / (2 - 2)")


def test_search_finds_the_best_passages_first(tmp_path):
    file = index(tmp_path / "c.sqlite", ["The moss of Ralm is blue.", "Ralm has two moons.", "Moss grows."])
    found = Search(str(file), results=2).search("What colour is the moss of Ralm?")
    assert found.splitlines()[0] == "The moss of Ralm is blue."
    assert len(found.splitlines()) == 2
    assert Search(str(file)).search("quartz") == "Nothing was found."


@pytest.mark.parametrize("query", ['" OR 1', "NEAR(", "moss AND NOT", "*", "", "text:moss", "'; DROP TABLE passages"])
def test_no_query_is_read_as_an_operator(tmp_path, query):
    file = index(tmp_path / "c.sqlite", ["moss"])
    assert Search(str(file)).search(query) in (
        "moss",
        "Nothing was found.",
        "Nothing was found: the query has no words.",
    )


def test_search_without_its_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Search(str(tmp_path / "none.sqlite"))


def test_all_of_them_can_be_shown_to_a_model():
    for cfg in (
        EnvironmentConfig(tools=("rewards.tools:python", "rewards.tools:calculator")),
        EnvironmentConfig("rewards.tools:Search", options=("file=c.sqlite", "results=2")),
    ):
        definition = Definition(cfg)
        assert [s["function"]["name"] for s in definition.schemas()] == list(definition.tools)
    assert Definition(EnvironmentConfig(tools=("rewards.tools:python",), call="fence")).tools["python"]
    assert tools.python.__doc__
