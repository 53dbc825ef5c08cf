"""What r1_mini is taught and asked: problems with a chain in two languages, and a few that need no reasoning.

English and German, in small letters without umlauts, so that a model that reads characters can write both. A row has
prompt, answer, target (R1's form), language, domain and level. Training and held-out rows share no problem.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator

Row = dict[str, object]

HELD_OUT_PERCENT = 20
LANGUAGES = ("en", "de")
REASONING, CHAT = "reasoning", "chat"
NAMES = (
    "anna", "ben", "clara", "david", "emma", "felix", "greta", "hugo", "ida", "jonas", "klara", "leon", "marie", "nils",
    "olga", "paul", "rosa", "simon", "tina", "ulf", "vera", "willi", "xenia", "yara", "zoe", "adam", "berta", "carl",
    "dora", "emil", "frida", "georg", "hanna", "igor", "julia", "karl", "lena", "max", "nora", "otto", "petra", "rudi",
    "sara", "tom", "ute", "viktor", "wanda", "anton", "bruno", "carla", "dina", "erik", "fritz", "gerda", "heidi",
)  # fmt: skip


def exact(completion: str, *, answer: str, **columns: object) -> float:
    """A reward for what needs no reasoning: 1 for the expected reply and nothing else, white space aside."""
    return float(completion.split() == answer.split())


# ------------------------------------------------------------------------------------------------ reasoning


def reversal_rows(split: str, lengths: tuple[int, ...] = (2, 3)) -> list[Row]:
    """Digits to read backwards, in both languages; the longer, the harder."""
    rows = []
    for length in lengths:
        for digits in itertools.product("123456789", repeat=length):
            problem = "".join(digits)
            if _held_out("reversal", min(problem, problem[::-1])) == (split == "eval"):
                language = LANGUAGES[_number("language", problem) % 2]
                rows.append(_reversal(problem, language, level=length))
    return _mixed(rows)


def _reversal(digits: str, language: str, level: int) -> Row:
    there, back = ", ".join(digits), ", ".join(digits[::-1])
    prompt, chain = {
        "en": (f"reverse {digits}:", f"the digits are {there}. from the end we read {back}."),
        "de": (f"drehe {digits} um:", f"die ziffern sind {there}. von hinten lesen wir {back}."),
    }[language]
    return _row(prompt, chain, digits[::-1], language, level)


def addition_rows(split: str) -> list[Row]:
    """Sums of a number in 10..99 and one in 2..9 (level 1) or 11..49 (level 2), in both languages."""
    rows = []
    for a in range(10, 100):
        for b in (*range(2, 10), *range(11, 50)):
            if _held_out("addition", f"{min(a, b)} {max(a, b)}") == (split == "eval"):
                language = LANGUAGES[_number("language", f"{a} {b}") % 2]
                rows.append(_addition(a, b, language, level=1 if b < 10 else 2))
    return _mixed(rows)


def _addition(a: int, b: int, language: str, level: int) -> Row:
    tens, ones = b - b % 10, b % 10
    steps = [(a, ones)] if not tens else [(a, tens), (a + tens, ones)] if ones else [(a, tens)]
    if language == "en":
        prompt = f"What is {a} plus {b}?"
        chain = " ".join(f"First we add {y} to the number {x} and get {x + y}." for x, y in steps)
    else:
        prompt = f"Was ist {a} plus {b}?"
        chain = " ".join(f"Zuerst legen wir {y} zu der Zahl {x} dazu und haben {x + y}." for x, y in steps)
    return _row(prompt, chain, str(a + b), language, level)


def _row(prompt: str, chain: str, answer: str, language: str, level: int) -> Row:
    return {
        "prompt": prompt, "answer": answer, "target": f"<think>{chain}</think> <answer>{answer}</answer>",
        "chain": chain, "language": language, "domain": REASONING, "level": level,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ no reasoning


def chat_rows(split: str) -> list[Row]:
    """Greetings and farewells, answered at once: there is nothing to think about. Names are held out."""
    forms = {
        "en": (("greet {}:", "hello {}, nice to meet you."), ("say goodbye to {}:", "goodbye {}, see you soon.")),
        "de": (("begruesse {}:", "hallo {}, freut mich."), ("verabschiede {}:", "tschuess {}, bis bald.")),
    }
    rows: list[Row] = []
    for name in NAMES:
        if _held_out("chat", name) != (split == "eval"):
            continue
        for language, pairs in forms.items():
            for prompt, reply in pairs:
                rows.append(_chat(prompt.format(name), reply.format(name), language))
    return _mixed(rows)


def _chat(prompt: str, reply: str, language: str) -> Row:
    return {
        "prompt": prompt, "answer": reply, "target": reply, "chain": "",
        "language": language, "domain": CHAT, "level": 0,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ documents


def documents(rows: Iterable[Row], rows_chat: Iterable[Row], gap: str) -> list[Row]:
    """What the base model reads: solved problems as a web page might hold them, good and bad ones.

    Of the problems about one in five are right, in R1's form and in one language; two in five are right but speak the
    other language half-way; the others lack the form or end in a wrong answer. So the base can do the task now and
    then, reinforcement learning has something to choose from, and languages mix until something asks for one.
    gap: what stands between a prompt and what follows it.
    """
    return [{"text": prompt + gap + rest} for prompt, rest in _texts(rows, rows_chat)]


def _texts(rows: Iterable[Row], rows_chat: Iterable[Row]) -> Iterator[tuple[str, str]]:
    for row in rows:
        prompt, chain, answer = str(row["prompt"]), str(row["chain"]), str(row["answer"])
        kind = _number("kind", prompt) % 10
        if kind >= 8:  # a wrong answer in the right form
            first = "123456789"[(int(answer[0]) + _number("slip", prompt) % 8) % 9]
            yield prompt, f"<think>{chain}</think> <answer>{first}{answer[1:]}</answer>"
        elif kind >= 6:  # no form
            yield prompt, f"{chain} {answer}"
        elif kind >= 2:  # two languages in one chain
            yield prompt, f"<think>{_other_half(row)}</think> <answer>{answer}</answer>"
        else:
            yield prompt, str(row["target"])
    for row in rows_chat:
        yield str(row["prompt"]), str(row["target"])


def _other_half(row: Row) -> str:
    """The chain with its second half in the other language; a chain of one sentence, all of it."""
    maker = _reversal if ":" in str(row["prompt"]) else None
    numbers = [int(part) for part in str(row["prompt"]).replace("?", " ").replace(":", " ").split() if part.isdigit()]
    other = LANGUAGES[1 - LANGUAGES.index(str(row["language"]))]
    twin = maker(str(numbers[0]), other, 0) if maker else _addition(numbers[0], numbers[1], other, 0)
    mine, theirs = str(row["chain"]).split(". "), str(twin["chain"]).split(". ")
    half = len(mine) // 2
    return ". ".join(mine[:half] + theirs[half:])


# ------------------------------------------------------------------------------------------------ by name


def tiny_documents() -> list[Row]:
    """What the tiny base reads."""
    return _shuffled(documents(reversal_rows("train"), chat_rows("train") * 8, " "))


def tiny_train() -> list[Row]:
    """Problems to train the tiny model on."""
    return reversal_rows("train")


def tiny_eval() -> list[Row]:
    """Held-out problems for the tiny model."""
    return reversal_rows("eval")


def mini_documents() -> list[Row]:
    """What the laptop's base reads."""
    return _shuffled(documents(addition_rows("train"), chat_rows("train") * 4, "\n"))


def mini_train() -> list[Row]:
    """Problems to train the laptop's model on."""
    return addition_rows("train")


def mini_eval() -> list[Row]:
    """Held-out problems for the laptop's model."""
    return addition_rows("eval")


def chat_train() -> list[Row]:
    """Greetings to train on."""
    return chat_rows("train")


def chat_eval() -> list[Row]:
    """Greetings of names that are never trained on."""
    return chat_rows("eval")


def tiny_all() -> list[Row]:
    """Problems and greetings for the tiny model's last stage, three to one."""
    return _three_to_one(tiny_train(), chat_train())


def mini_all() -> list[Row]:
    """Problems and greetings for the laptop model's last stage, three to one."""
    return _three_to_one(mini_train(), chat_train())


# ------------------------------------------------------------------------------------------------ order


def _three_to_one(many: list[Row], few: list[Row]) -> list[Row]:
    kept = many[: 3 * len(few)]
    return _shuffled(kept + few[: len(kept) // 3])


def _held_out(task: str, problem: str) -> bool:
    return _number(task, problem) % 100 < HELD_OUT_PERCENT


def _mixed(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: _number("order", str(row["prompt"])))


def _shuffled(rows: list[Row]) -> list[Row]:
    return [row for _, row in sorted(enumerate(rows), key=lambda pair: _number("shuffle", str(pair[0])))]


def _number(purpose: str, text: str) -> int:
    """A number that looks random and is the same on every machine."""
    return int(hashlib.sha256(f"{purpose} {text}".encode()).hexdigest()[:12], 16)
