"""Options of rewards (rl/scoring/options.py): each is read by its parameter's type, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import pytest

from rewards import GUARDS, REWARDS
from rl.config import RewardConfig, RunConfig
from rl.scoring.options import options_of, parameters_of
from rl.scoring.reward_functions import RewardFunctions, resolve
from rl.settings.overrides import apply_overrides, from_json, to_json
from rl.types import BadInput
from tests.unit.test_score import group

if TYPE_CHECKING:
    from nowhere import Unknown

GUARD = "run_untrusted_code_without_sandbox"


class Tone(enum.Enum):
    KIND = "kind"
    STERN = 2


def native(
    completion: str,
    *,
    flag: bool = False,
    count: int = 1,
    scale: float = 1.0,
    mark: str = "",
    mode: Literal["strict", "lenient"] = "strict",
    maybe: Optional[float] = None,  # noqa: UP045  (how many people write it)
    either: Union[int, str] = 0,  # noqa: UP007
    on_or_word: bool | str = False,
    names: list[str] = [],  # noqa: B006
    sizes: tuple[int, ...] = (),
    pair: tuple[int, str] = (0, ""),
    words: Sequence[str] = (),
    table: Mapping[str, int] = {},
    tone: Tone = Tone.KIND,
    where: Path = Path(),
    anything: Any = None,
    unknown: Unknown = False,
    call: Callable[[], int] | None = None,
    **columns: object,
) -> float:
    return 1.0


def in_trl_shape(prompts: list[str], completions: list[str], flag: bool = False, **kwargs: object) -> list[float]:
    return [1.0] * len(completions)


def plain(completion, flag=False, count=1, scale=1.0, mark="", free=None, bare=..., *args, needed, **columns):  # type: ignore[no-untyped-def]
    return 1.0


class RewardObject:
    """A reward that is an object."""

    def __call__(self, completion: str, *, flag: bool = False) -> float:
        return 1.0


def of(function: Callable[..., object], *options: str) -> dict[str, object]:
    return options_of(RewardConfig("mine:f", options=options), function)


def refusal(function: Callable[..., object], *options: str) -> str:
    with pytest.raises(BadInput) as caught:
        of(function, *options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flag=true", True), ("flag=True", True), ("flag=1", True), ("flag=yes", True),
        ("flag=false", False), ("flag=False", False), ("flag=0", False), ("flag=no", False), ("flag=FALSE", False),
        ("count=-3", -3), ("count=10_400", 10_400), ("count = 3 ", 3),
        ("scale=1", 1.0), ("scale=1e-6", 1e-6), ("scale=.5", 0.5),
        ("mark=False", "False"), ("mark=", ""), ("mark=3", "3"), ("mark=a=b", "a=b"), ("mark= a ", " a "), ("mark = a ", "a "),
        ('mark="3"', "3"), (r'mark="\n"', "\n"), ('mark=say "yes"', 'say "yes"'), ('mark="say \\"yes\\""', 'say "yes"'),
        ("mode=lenient", "lenient"), ('mode="lenient"', "lenient"),
        ("maybe=null", None), ("maybe=None", None), ("maybe=none", None), ("maybe=2", 2.0),
        ("either=3", 3), ("either=three", "three"), ('either="3"', "3"),
        ("on_or_word=true", True), ("on_or_word=word", "word"), ('on_or_word="False"', "False"),
        ("names=a,b", ["a", "b"]), ('names=["a,b", "c"]', ["a,b", "c"]), ('names="a,b",c', ["a,b", "c"]), ("names=", []),
        ("sizes=1, 2", (1, 2)), ("sizes=[1, 2]", (1, 2)), ("pair=1,a", (1, "a")), ("words=one", ["one"]),
        ('table={"a": 1}', {"a": 1}), ("tone=kind", Tone.KIND), ("tone=STERN", Tone.STERN), ("where=a/b", Path("a/b")),
        ("anything=[1]", [1]), ("anything=false", False), ("anything=a b", "a b"), ('anything="False"', "False"),
        ("unknown=true", True), ("call=null", None),
    ],
)  # fmt: skip
def test_an_option_is_read_as_its_parameters_type(option: str, value: object) -> None:
    (read,) = of(native, option).values()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("flag=maybe", "flag=maybe: expected true or false"),
        ("flag=", "flag=: expected true or false"),
        ("flag=off", "flag=off: expected true or false"),
        ("flag=None", "flag=None: expected true or false"),
        ('flag="false"', 'flag="false": expected true or false'),
        ("flag='false'", "flag='false': expected true or false"),
        ("flag=[]", "flag=[]: expected true or false"),
        ("count=2.5", "count=2.5: expected a whole number"),
        ("count=2.0", "count=2.0: expected a whole number; in digits: 2"),
        ("count=1e3", "count=1e3: expected a whole number; in digits: 1000"),
        ("count=true", "count=true: expected a whole number"),
        ("count=0x10", "count=0x10: expected a whole number"),
        ("count=１６", "count=１６: expected a whole number"),
        ("count=1__0", "count=1__0: expected a whole number"),
        ("count=[2]", "count=[2]: expected a whole number"),
        ("scale=big", "scale=big: expected a number"),
        ("scale=nan", "scale=nan: expected a number"),
        ("scale=NaN", "scale=NaN: expected a number"),
        ("scale=inf", "scale=inf: expected a number"),
        ("scale=1e999", "scale=1e999: expected a number"),
        ("scale=true", "scale=true: expected a number"),
        ("scale=1,5", "scale=1,5: expected a number"),
        ("mark=null", "mark=null: expected a text; write \"\" for an empty text, or \"null\""),
        ("mark=None", "mark=None: expected a text; write \"\" for an empty text"),
        ("mark='a'", "mark='a': expected a text; quotes are double: write \"a\""),
        ('mark="a', 'mark="a: expected a text; it begins like a text in double quotes'),
        (r"mark=\n", r'mark=\n: expected a text; write "\n" in double quotes'),
        ("mode=linient", "mode=linient: expected one of strict, lenient; did you mean lenient?"),
        ("mode=Lenient", "mode=Lenient: expected one of strict, lenient"),
        ("maybe=", "maybe=: expected a number or null"),
        ("on_or_word=False", "on_or_word=False: expected true or false or a text; write false, or \"False\""),
        ("on_or_word=no", "on_or_word=no: expected true or false or a text; write false, or \"no\""),
        ("names=a,,b", "names=a,,b: expected a list of texts; an item is empty"),
        ("names=a, b", "names=a, b: expected a list of texts; leave out the spaces beside the commas"),
        ("names=a,null", "names=a,null: expected a list of texts"),
        ("names=[1]", "names=[1]: expected a list of texts; in brackets it is read as JSON"),
        ('names=["a"', 'names=["a": expected a list of texts; in brackets it is read as JSON'),
        ("sizes=1,2.5", "sizes=1,2.5: expected a list of whole numbers"),
        ("sizes=1,", "sizes=1,: expected a list of whole numbers; an item is empty"),
        ("pair=1", "pair=1: expected a list of a whole number and a text; there are 2, not 1"),
        ("table=a", "table=a: expected a JSON object"),
        ('table={"a": 1, "a": 2}', "table={\"a\": 1, \"a\": 2}: expected a JSON object"),
        ("tone=Kind", "tone=Kind: expected one of kind, STERN; did you mean kind?"),
        ("anything=False", "anything=False: expected JSON or a text; write true, false, null"),
        ("anything=TRUE", "anything=TRUE: expected JSON or a text; write true, false, null"),
        ("anything=None", "anything=None: expected JSON or a text; write \"\" for an empty text"),
        ("anything=(1, 2)", "anything=(1, 2): expected JSON or a text; write true, false, null"),
        ("anything=NaN", "anything=NaN: expected JSON or a text; write true, false, null"),
        ("unknown=maybe", "unknown=maybe: expected true or false"),
        ("call=print", "call=print: expected Callable or null"),
    ],
)  # fmt: skip
def test_an_option_of_another_type_is_one_line_that_names_reward_option_value_and_what_is_wanted(
    option: str, wanted: str
) -> None:
    assert refusal(native, option).startswith(f"rewards: 'mine:f': option {wanted}")
    assert "\n" not in refusal(native, option)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flag=False", False), ("count=3", 3), ("count=[1, 2]", [1, 2]), ("scale=1", 1.0), ("mark=3", "3"),
        ("mark=False", "False"), ("free=3", 3), ("free=some text", "some text"), ("needed=false", False),
    ],
)  # fmt: skip
def test_without_an_annotation_the_defaults_type_is_wanted_and_without_a_default_json_or_text(
    option: str, value: object
) -> None:
    (read,) = of(plain, option).values()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "option",
    [
        "flag=off",
        "flag=[]",
        "count=2.5",
        "count=True",
        "scale=x",
        "free=False",
        "free=None",
        "free=True",
        "needed=False",
        "needed={1}",
    ],
)
def test_without_an_annotation_what_is_not_of_the_defaults_type_or_only_looks_like_python_is_refused(
    option: str,
) -> None:
    said = refusal(plain, option)
    assert said.startswith(f"rewards: 'mine:f': option {option}: expected ")
    assert ("an annotation may say otherwise" in said) == option.startswith(("flag", "count", "scale"))


@pytest.mark.parametrize(
    "function",
    [
        in_trl_shape,
        RewardObject(),
        functools.partial(native, scale=2.0),
        functools.wraps(native)(lambda *a, **k: native(*a, **k)),
    ],
)
def test_a_function_of_lists_an_object_a_partial_and_a_wrapper_have_typed_options_too(
    function: Callable[..., object],
) -> None:
    assert of(function, "flag=False") == {"flag": False}
    assert "option flag=off: expected true or false" in refusal(function, "flag=off")


def test_all_faults_are_told_together_one_a_line_over_all_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(native=native, plain=plain))
    rewards = (
        RewardConfig("mine:native", options=("flag=off", "count=2.5", "flga=true")),
        RewardConfig("mine:plain", name="other", options=("scale=x", "limit")),
        RewardConfig("countdown", options=("use_all=maybe",)),
    )
    with pytest.raises(BadInput) as caught:
        RewardFunctions(rewards)
    assert [line.split(";")[0] for line in str(caught.value).split("\n")] == [
        "rewards: 'mine:native': option flag=off: expected true or false",
        "rewards: 'mine:native': option count=2.5: expected a whole number",
        "rewards: 'mine:native': it has no parameter 'flga'",
        "rewards: 'other': option scale=x: expected a number or a list",
        "rewards: 'other': option 'limit': expected name=value",
        "rewards: 'countdown': option use_all=maybe: expected true or false",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("flag=true", "flag=false"), "option flag is given twice"),
        (("flag=true", " flag = true"), "option flag is given twice"),
        (("completion=x",), "option completion: every sample brings its own"),
        (("prompt=x",), "option prompt: every sample brings its own"),
        (("columns=3",), "it has no parameter 'columns'"),
        (("=3",), "it has no parameter ''"),
        (("",), "option '': expected name=value"),
    ],
)
def test_an_option_that_is_given_twice_or_is_no_setting_is_refused(options: tuple[str, ...], said: str) -> None:
    assert said in refusal(native, *options)


def test_every_setting_of_a_built_in_reward_has_an_annotation() -> None:
    for name in REWARDS:
        for parameter in parameters_of(resolve(name)).values():
            assert parameter.annotation is not parameter.empty, f"{name}: {parameter}"


# ------------------------------------------------------------------------------------------------ guards


def test_every_flag_that_takes_the_sandbox_away_is_listed_as_a_guard() -> None:
    flags = {
        flag for name in REWARDS for flag in parameters_of(resolve(name)) if "sandbox" in flag or "untrusted" in flag
    }
    assert flags == set(GUARDS) == {GUARD}


@pytest.mark.parametrize(
    "value",
    [
        "1",
        "True",
        "TRUE",
        "yes",
        "Yes",
        " true",
        "true ",
        '"true"',
        "'true'",
        "on",
        "t",
        "[true]",
        "None",
        "null",
        "",
        "2",
    ],
)
def test_a_guard_is_taken_away_by_exactly_true_and_by_nothing_that_resembles_it(value: str) -> None:
    with pytest.raises(
        BadInput, match=f"rewards: 'code_accuracy': option {GUARD}=.*(exactly {GUARD}=true|expected true or false)"
    ):
        RewardFunctions((RewardConfig("code_accuracy", options=(f"{GUARD}={value}",)),))
    assert options_of(RewardConfig("code_accuracy", options=(f"{GUARD}=true",)), resolve("code_accuracy")) == {
        GUARD: True
    }


@pytest.mark.parametrize("value", ["False", "false", "0", "no", "FALSE"])
@pytest.mark.parametrize("way", ["recipe", "command line", "json"])
def test_no_spelling_of_false_takes_a_guard_away_whichever_way_it_comes_in(value: str, way: str) -> None:
    """Was read as the text "False", which is true."""
    option = f"{GUARD}={value}"
    cfg = RunConfig(rewards=(RewardConfig("code_accuracy", options=(option,)),))
    if way == "command line":
        cfg = apply_overrides(RunConfig(rewards=(RewardConfig("code_accuracy"),)), [f"rewards.0.options={option}"])
    elif way == "json":
        cfg = from_json(to_json(cfg))
    assert options_of(cfg.rewards[0], resolve("code_accuracy")) == {GUARD: False}


def test_a_rows_column_takes_no_guard_away_from_a_reward_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the user's that passes its columns on to code_accuracy, or has the flag itself."""
    seen: list[object] = []

    def passes_on(completion: str, **columns: object) -> float:
        seen.append(columns.get(GUARD))
        return 1.0

    def has_it(completion: str, *, run_untrusted_code_without_sandbox: object = False) -> float:
        seen.append(run_untrusted_code_without_sandbox)
        return 1.0

    def in_lists(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
        seen.append(columns.get(GUARD))
        return [1.0]

    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(a=passes_on, b=has_it, c=in_lists))
    functions = RewardFunctions([RewardConfig(f"mine:{name}") for name in "abc"])
    functions.call_all(group("x", row={GUARD: True}), functions.names)
    assert seen == [None, False, None]


def test_a_guard_of_ones_own_reward_needs_exactly_true_whatever_its_annotation() -> None:
    def loose(completion: str, *, run_untrusted_code_without_sandbox: object = None) -> float:
        return 1.0

    assert of(loose, f"{GUARD}=False") == {GUARD: False}
    assert "exactly" in refusal(loose, f"{GUARD}=1")


@pytest.mark.parametrize("value", ["False", "", 0, 1, None])
def test_the_sandbox_itself_refuses_a_guard_that_is_no_bool(value: object) -> None:
    from rewards.sandbox import run

    with pytest.raises(TypeError, match=f"{GUARD}={value!r}: is no bool"):
        run(["true"], run_untrusted_code_without_sandbox=value)  # type: ignore[arg-type]


def test_options_are_checked_by_check_too(tmp_path: Path) -> None:
    from rl.workflow.inputs import prepare

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1 + 1?", "answer": "2", "tests": "def check(f): pass"}\n')
    cfg = apply_overrides(
        RunConfig(rewards=(RewardConfig("code_accuracy", options=(f"{GUARD}=True",)),)),
        [
            f"prompts.source={rows}",
            "prompts.template=plain",
            "model.path=recipes.tiny_model:tied",
            "model.dtype=float32",
            "rollout.max_new_tokens=8",
        ],
    )
    cfg = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, kl_coef=0.0))
    with pytest.raises(BadInput, match=f"option {GUARD}=True: it takes a guard away"):
        prepare(cfg)
