"""Worked cases of language consistency, the hostile ones first."""

from __future__ import annotations

import pytest

from rewards import language
from rewards.extract import chain_of_thought
from rewards.language import CONSISTENT, NO_WORDS, language_consistency, main_language, word_counts
from rewards.prose import plain_text
from rewards.scripts import _NAMES, KNOWN, language_code
from rewards.types import CORRECT, WRONG

ENGLISH = "First we add the number of apples in both baskets and then we divide the sum by two to get the answer."
GERMAN = "Zuerst addieren wir die Zahl der Äpfel in beiden Körben, dann teilen wir die Summe durch zwei."
CHINESE = "首先我们把两个篮子里的苹果数量加起来，然后除以二，就得到了答案。"
JAPANESE = "まず二つの籠にあるリンゴの数を足して、それから二で割ると答えになります。"
RUSSIAN = "Сначала сложим число яблок в обеих корзинах, а затем разделим сумму на два и получим ответ."
DANISH = (
    "Først lægger vi antallet af æbler i begge kurve sammen, og derefter dividerer vi summen med to. Hun spiser tre æg "
    "hver morgen og bager boller til sine venner. Vi skal finde ud af, hvor mange penge han har tilbage. Hvis hun "
    "sælger resten på markedet, får hun to kroner for hvert æg. Nu ganger vi prisen med antallet."
)
NORWEGIAN = (
    "Først legger vi sammen antall epler i begge kurvene, og deretter deler vi summen på to. Hun spiser tre egg hver "
    "morgen til frokost og baker boller til vennene sine. Vi må finne ut hvor mye penger han har igjen. Hvis hun selger "
    "resten på markedet, får hun to kroner for hvert egg. Nå ganger vi prisen med antallet."
)
NYNORSK = (
    "Først legg vi saman talet på eple i begge korgene, og så deler vi summen på to. Ho et tre egg kvar morgon til "
    "frukost og bakar bollar til venene sine. Vi må finne ut kor mykje pengar han har att. Dersom ho sel resten på "
    "marknaden, får ho to kroner for kvart egg. No gongar vi prisen med talet."
)
SWEDISH = (
    "Först lägger vi ihop antalet äpplen i båda korgarna och sedan delar vi summan med två. Hon äter tre ägg varje "
    "morgon till frukost och bakar bullar till sina vänner. Vi måste ta reda på hur mycket pengar han har kvar. Om hon "
    "säljer resten på marknaden får hon två kronor för varje ägg. Nu multiplicerar vi priset med antalet."
)
WORDS = ENGLISH.rstrip(".").split()


def between(separator: str, text: str = ENGLISH) -> str:
    return separator.join(text)


def letters_from(first: int, text: str = "".join(WORDS).lower()) -> str:
    """The text in one of Unicode's other Latin alphabets."""
    return "".join(chr(first + ord(letter) - ord("a")) for letter in text)


def pieces(form: str, size: int, between: str = " ", text: str = ENGLISH) -> str:
    """The text a few words at a time, each piece in the form."""
    words = text.rstrip(".").split()
    return between.join(form.format(" ".join(words[i : i + size])) for i in range(0, len(words), size))


# Chains in a language that is not the target, or hidden from view: (target, completion). None may pass as consistent.
HOSTILE = {
    "English for Chinese": ("zh", ENGLISH),
    "English in inline mathematics": ("zh", f"${ENGLISH}$"),
    "English in display mathematics": ("zh", f"$${ENGLISH}$$"),
    "English in LaTeX brackets": ("zh", rf"\[{ENGLISH}\]"),
    "English in LaTeX parentheses": ("zh", rf"\({ENGLISH}\)"),
    "English as text in mathematics": ("zh", rf"$\text{{{ENGLISH}}} = 5$"),
    "English in an equation": ("zh", rf"\begin{{align}}{ENGLISH}\end{{align}}"),
    "English in a code block": ("zh", f"```\n{ENGLISH}\n```"),
    "English in a code block of tildes": ("zh", f"~~~\n{ENGLISH}\n~~~"),
    "English in inline code": ("zh", f"`{ENGLISH}`"),
    "English in comments": ("zh", f"```python\n# {ENGLISH}\nx = 1\n```"),
    "a code block that never ends": ("zh", f"```python\n{ENGLISH}"),
    "display mathematics that never ends": ("zh", f"$${ENGLISH}"),
    "an equation that never ends": ("zh", rf"\begin{{align}}{ENGLISH}"),
    "dollars of money": ("zh", "It costs $5 and then $10 and they still want more money for it"),
    "escaped dollars": ("zh", rf"\${ENGLISH}\$"),
    "zero-width spaces between letters": ("zh", between("\u200b")),
    "zero-width joiners between letters": ("zh", between("\u200d")),
    "null bytes between letters": ("zh", between("\x00")),
    "right-to-left marks between letters": ("zh", between("\u200f")),
    "right-to-left overrides": ("zh", "\u202e" + between("\u202d")),
    "soft hyphens between letters": ("zh", between("\xad")),
    "byte-order marks between letters": ("zh", between("\ufeff")),
    "variation selectors between letters": ("zh", between("\ufe0f")),
    "tag characters between letters": ("zh", between("\U000e0041")),
    "spaces between letters": ("zh", between(" ", "".join(WORDS))),
    "full stops between letters": ("zh", between(".", "".join(WORDS))),
    "hyphens between letters": ("zh", between("-", "".join(WORDS))),
    "stars between letters": ("zh", between("*", "".join(WORDS))),
    "accents on every letter": ("de", between("\u0301")),
    "a pile of accents": ("zh", between("\u0301" * 20)),
    "full-width letters": ("zh", letters_from(0xFF41)),
    "bold mathematical letters": ("zh", letters_from(0x1D41A)),
    "double-struck letters": ("zh", letters_from(0x1D552)),
    "circled letters": ("zh", letters_from(0x24D0)),
    "full-width letters with spaces": ("zh", between(" ", letters_from(0xFF41))),
    "capitals": ("zh", ENGLISH.upper()),
    "short capitals in a row": ("zh", "THE SUM IS SIX AND THE TWO ARE ONE"),
    "nothing thought, English answered": ("zh", f"<think></think>{ENGLISH}"),
    "only digits thought, English answered": ("zh", f"<think>5 + 6 = 11</think>{ENGLISH}"),
    "only mathematics thought, English answered": ("zh", f"<think>$x = 5$</think>{ENGLISH}"),
    "thinking that never ends": ("zh", f"<think>{ENGLISH}"),
    "thinking that the prompt has opened": ("zh", f"{ENGLISH}</think>{CHINESE}"),
    "thinking before the tag": ("zh", f"{ENGLISH}<think></think>{CHINESE}"),
    "thinking twice": ("zh", f"<think>{ENGLISH}</think>{CHINESE}<think>5</think>{CHINESE}"),
    "nested thinking": ("zh", f"<think><think>{ENGLISH}</think></think>{CHINESE}"),
    "a thousand tags": ("zh", "<think>" * 1000 + ENGLISH + "</think>" * 1000),
    "tags in code": ("zh", f"`</think>` {ENGLISH} ```</think>``` {ENGLISH}</think>"),
    "one Chinese character": ("zh", f"好 {ENGLISH}"),
    "Chinese and English by halves": ("zh", f"{CHINESE} {ENGLISH}"),
    "Chinese with English words": ("zh", "我们 add 两个 numbers 然后 divide 得到 answer"),
    "English glued to Chinese": ("zh", "首先we然后add最后divide"),
    "Japanese for Chinese": ("zh", JAPANESE),
    "Korean for Chinese": ("zh", "먼저 두 바구니의 사과 수를 더한 다음 둘로 나눕니다."),
    "Russian for Chinese": ("zh", RUSSIAN),
    "letters of a dead language": ("zh", "𐎠𐎡𐎢𐎣𐎤 𐎥𐎦𐎧𐎨"),
    "Cherokee": ("zh", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎠᏂᏴᏫᏯ"),
    "Chinese for Japanese": ("ja", CHINESE),
    "Chinese behind one kana": ("ja", CHINESE.replace("，", "の，")),
    "Chinese in a Japanese text": ("ja", JAPANESE + CHINESE),
    "Chinese for English": ("en", CHINESE),
    "Chinese in mathematics": ("en", f"${CHINESE}$"),
    "Chinese in code": ("en", f"```\n{CHINESE}\n```"),
    "Thai in mathematics": ("en", "$โรเจอร์เริ่มด้วยการมีลูกเทนนิส$"),
    "Russian for English": ("en", RUSSIAN),
    "Latin letters replaced by Cyrillic ones": ("en", ENGLISH.replace("e", "е").replace("a", "а").replace("o", "о")),
    "German for English": ("en", GERMAN),
    "English for German": ("de", ENGLISH),
    "English and German by halves": ("de", f"{GERMAN} {ENGLISH}"),
    "Dutch for German": ("de", "Eerst tellen we het aantal appels in beide manden op en daarna delen we de som door twee."),
    "Spanish for Portuguese": ("pt", "Primero sumamos el número de manzanas de las dos cestas y luego dividimos."),
    "Italian for Spanish": ("es", "Prima sommiamo il numero delle mele nei due cesti e poi dividiamo per due."),
    "Swahili for English": ("en", "Kwanza tunajumlisha idadi ya matufaha katika vikapu vyote viwili kisha tunagawanya."),
    "Ukrainian for Russian": ("ru", "Спочатку додамо кількість яблук в обох кошиках, а потім поділимо суму на два."),
    "Persian for Arabic": ("ar", "ابتدا تعداد سیب‌های هر دو سبد را جمع می‌کنیم و سپس بر دو تقسیم می‌کنیم."),
    "a hundred thousand digits and English": ("zh", "9" * 100_000 + " " + ENGLISH),
    "English in short formulas": ("zh", pieces("${}$", 5)),
    "English in short inline code": ("zh", pieces("`{}`", 5)),
    "English in short formulas of all kinds": ("zh", pieces("\\({}\\)", 4)),
    "English in double backticks": ("zh", pieces("``{}``", 3)),
    "English in one word a formula": ("zh", pieces("${}$", 1)),
    "English in one word a piece of code": ("zh", pieces("`{}`", 1)),
    "English in short formulas between Chinese words": ("zh", pieces("${}$", 5, "，好的，")),
    "English in short code between Chinese words": ("zh", pieces("`{}`", 2, "，好的，")),
    "English in texts in formulas": ("zh", pieces("$\\text{{{}}}$", 3)),
    "English in formulas with spaces of LaTeX": ("zh", "$" + ENGLISH.replace(" ", "\\ ") + "$"),
    "English in formulas with sums for spaces": ("zh", pieces("${}$", 4).replace(" ", "+")),
    "English in names of variables": ("zh", "`" + ENGLISH.rstrip(".").replace(" ", "_") + "`"),
    "English in display formulas, two words each": ("zh", pieces("$${}$$\n", 2)),
    "English comments of a few words": ("zh", "```python\n" + pieces("# {}\nx = 1\n", 4) * 2 + "```"),
    "German in short formulas": ("zh", pieces("${}$", 5, text=GERMAN)),
    "German for English, in short code": ("en", pieces("`{}`", 4, text=GERMAN)),
    "Chinese in short formulas": ("en", " ".join(f"${CHINESE[i : i + 5]}$" for i in range(0, 30, 5))),
    "Russian in short code": ("en", pieces("`{}`", 3, text=RUSSIAN)),
    "a stray backtick before a fence": ("zh", f"看 `\n```python\nx = 1\n```\n{ENGLISH}\n```python\ny = 2\n```"),
    "a stray backtick in a line with a fence": ("zh", f"看 ` ```python\nx = 1\n```\n{ENGLISH}\n```python\ny = 2\n```"),
    "a stray backtick behind a fence": ("zh", f"```python\nx = 1\n``` ` {ENGLISH} ` `y`"),
    "two stray backticks": ("zh", f"`` 看 ```\nx\n``` {ENGLISH} ```\ny\n```"),
    "a fence of tildes with a fence in it": ("zh", f"~~~\n```\n~~~\n{ENGLISH}\n~~~\n```\n~~~"),
    "Danish for Swedish": ("sv", DANISH),
    "Norwegian for Swedish": ("sv", NORWEGIAN),
    "Nynorsk for Swedish": ("sv", NYNORSK),
    "Swedish for Danish": ("da", SWEDISH),
    "Norwegian for Danish": ("da", NORWEGIAN),
    "Danish for Norwegian": ("no", DANISH),
    "Swedish for Norwegian": ("no", SWEDISH),
    "Swedish for Icelandic": ("is", SWEDISH),
    "Afrikaans for Dutch": ("nl", "Eers tel ons die aantal appels in albei mandjies bymekaar en dan deel ons die som deur twee."),
    "Catalan for Spanish": ("es", "Primer sumem el nombre de pomes dels dos cistells i després dividim la suma per dos."),
    "Galician for Portuguese": ("pt", "Primeiro sumamos o número de mazás das dúas cestas e despois dividimos a suma entre dous."),
    "Slovak for Czech": ("cs", "Najprv spočítame počet jabĺk v oboch košoch a potom súčet vydelíme dvoma."),
    "Bulgarian for Russian": ("ru", "Първо събираме броя на ябълките в двете кошници и след това разделяме сбора на две."),
    "Belarusian for Russian": ("ru", "Спачатку мы складаем колькасць яблыкаў у абодвух кошыках, а потым дзелім суму на два."),
    "Marathi for Hindi": ("hi", "प्रथम आपण दोन्ही टोपल्यांमधील सफरचंदांची संख्या जोडतो आणि मग बेरजेला दोनने भागतो."),
    "Urdu for Arabic": ("ar", "پہلے ہم دونوں ٹوکریوں میں سیبوں کی تعداد جمع کرتے ہیں اور پھر مجموعے کو دو سے تقسیم کرتے ہیں۔"),
    "lone surrogates": ("zh", "\ud800 " + ENGLISH + "\udfff"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_chain_is_never_consistent(case):
    target, completion = HOSTILE[case]
    score = language_consistency(completion, prompt=CHINESE, target=target)
    assert score.value < 0.9, score
    assert score.verdict == WRONG
    assert target in score.reason


HONEST = {
    "English": ("en", ENGLISH),
    "German": ("de", GERMAN),
    "Chinese": ("zh", CHINESE),
    "traditional Chinese": ("zh", "首先我們把兩個籃子裡的蘋果數量加起來，然後除以二，就得到了答案。"),
    "Japanese": ("ja", JAPANESE),
    "a Japanese heading of Han characters": ("ja", f"合計金額\n{JAPANESE}"),
    "Russian": ("ru", RUSSIAN),
    "Korean": ("ko", "먼저 두 바구니의 사과 수를 더한 다음 둘로 나눕니다."),
    "Arabic": ("ar", "أولا نجمع عدد التفاحات في السلتين ثم نقسم المجموع على اثنين فنحصل على الجواب."),
    "Hindi": ("hi", "पहले हम दोनों टोकरियों में सेबों की संख्या जोड़ते हैं और फिर योग को दो से भाग देते हैं।"),
    "mathematics of any kind": ("zh", rf"{CHINESE} $x^2 + \sin x$ \[ \frac{{a}}{{b}} \] \( \log n \) {CHINESE}"),
    "LaTeX without its marks": ("zh", rf"因此答案是 \boxed{{\frac{{1}}{{2}}}}，{CHINESE}"),
    "code": ("zh", f"{CHINESE}\n```python\nimport math\nfor i in range(10):\n    print(i)\n```\n{CHINESE}"),
    "points, units and variables": ("zh", f"三角形 ABC 中 x + y = 5，长 5cm，GCD 是 3。{CHINESE}"),
    "formulas with names and units": (
        "zh",
        rf"{CHINESE} $\text{{speed}} = \frac{{\text{{distance}}}}{{\text{{time}}}} = 60 \text{{ km/h}}$，{CHINESE} $v = 5 \text{{ miles per hour}}$",
    ),
    "a label in a formula": ("zh", rf"{CHINESE * 3} $n = \text{{number of apples}}$"),
    "functions and units without marks": (
        "zh",
        "速度是 60 km/h，长 5 cm，宽 2.5 mm，重 10 kg，sin(30°) = 0.5，log 2 + ln x，gcd(4, 6) = 2，max(ab, cd)，5 mod 3，Rt△ABC，加速度 9.8 m/s^2，功率 5 kW·h，共 3 min。",
    ),
    "short names beside operators": ("zh", "设 ab = 6，bc + cd = 10，xy ≤ 4，所以 dx × dy = 2。"),
    "LaTeX with environments and no marks": (
        "zh",
        rf"{CHINESE} \begin{{bmatrix}} ab & cd \end{{bmatrix}} \left( \frac{{1}}{{2}} \text{{km}} \right) {CHINESE}",
    ),
    "inline code": (
        "zh",
        "用 `print(total_sum)` 输出，再用 `for i in range(n)` 循环，`import numpy as np` 引入，`list` 的 `append` 方法加入元素，`public static void main` 是入口。"
        + CHINESE,
    ),
    "code with a few comments": (
        "zh",
        f"{CHINESE * 3}\n```python\n# read the input\nn = int(input())\n# print the sum\nprint(n)\n```\n{CHINESE}",
    ),
    "code with backticks in it": ("zh", f"{CHINESE}\n````markdown\n```python\nx = 1\n```\n````\n{CHINESE}"),
    "a stray backtick": ("zh", f"看 ` 这里 {CHINESE}\n```python\nfor item in items: print(item)\n```\n{CHINESE}"),
    "Danish": ("da", DANISH),
    "Norwegian": ("no", NORWEGIAN),
    "Bokmål": ("nb", NORWEGIAN),
    "Nynorsk": ("nn", NYNORSK),
    "Nynorsk as Norwegian": ("Norwegian", NYNORSK),
    "Swedish": ("sv", SWEDISH),
    "Spanish": ("es", "Primero sumamos el número de manzanas de las dos cestas y después dividimos la suma entre dos."),
    "Catalan": ("ca", "Primer sumem el nombre de pomes dels dos cistells i després dividim la suma per dos."),
    "Portuguese": ("pt", "Primeiro somamos o número de maçãs das duas cestas e depois dividimos a soma por dois."),
    "Indonesian": (
        "id",
        "Pertama kita menjumlahkan banyaknya apel di kedua keranjang, lalu membagi jumlahnya dengan dua.",
    ),
    "the answer in another language": ("zh", f"<think>{CHINESE}</think> {ENGLISH}"),
    "thinking that the prompt has opened": ("en", f"{ENGLISH}</think>{CHINESE}"),
    "bold marks": ("en", "**First** we *add* the __numbers__ of apples, and then: divide!"),
    "right-to-left marks": ("he", "\u200fקודם נחבר את מספר התפוחים בשני הסלים ואחר כך נחלק.\u200f"),
    "null bytes": ("en", ENGLISH.replace(" ", "\x00 ")),
    "money": ("en", "It costs $5 and then $10 and they still want more money for it"),
    "a very short chain": ("en", "So 5 + 6 = 11."),
    "names": ("de", "Zuerst hat Olivia fünf Äpfel, dann gibt Michael ihr zwei, und Roger nimmt einen davon weg."),
}


@pytest.mark.parametrize("case", HONEST)
def test_a_chain_in_one_language_is_consistent(case):
    target, completion = HONEST[case]
    score = language_consistency(completion, target=target)
    assert score.value >= CONSISTENT, score
    assert score.verdict == CORRECT


@pytest.mark.parametrize(
    ("target", "completion", "share"),
    [
        ("en", "So 我们 add the numbers", 4 / 5),  # two characters of Chinese are a word
        ("zh", "So 我们 add the numbers", 1 / 5),
        ("zh", "我们有 apples", 1.5 / 2.5),
        ("ru", "сумма чисел 首先我们", 2 / 4),
        ("th", "ลูกเทนนิส balls", 9 / 4 / (9 / 4 + 1)),  # four characters of Thai are a word
        ("en", f"{ENGLISH} {RUSSIAN}", 22 / 35),  # 22 and 16 words, less 3 single letters, which are no words
    ],
)
def test_the_score_is_the_share_of_words_in_the_target_language(target, completion, share):
    assert language_consistency(completion, target=target).value == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize(
    "completion", ["", " \n", "5 + 6 = 11", "$x$", "x y", "\u200b\u200f", "🙂 !!", "<think></think>"]
)
def test_a_text_without_words_scores_one_and_says_so(completion):
    assert language_consistency(completion, target="zh") == (1.0, CORRECT, NO_WORDS)


def test_the_target_is_the_setting_else_the_row_s_else_the_prompt_s():
    value = {
        name: language_consistency(CHINESE, **given).value
        for name, given in {
            "setting": {"target": "zh", "language": "en", "prompt": ENGLISH},
            "row": {"language": "Chinese", "prompt": ENGLISH},
            "question": {"question": CHINESE, "prompt": ENGLISH},
            "prompt": {"prompt": ENGLISH},
            "its own": {"prompt": "5 + 6 ="},
        }.items()
    }
    assert value == {"setting": 1, "row": 1, "question": 1, "prompt": 0, "its own": 1}


def test_languages_go_by_code_or_name_and_an_unknown_one_is_an_error():
    assert [language_code(name) for name in ("de", "DE", "zh-CN", "pt_BR", " English ")] == [
        "de",
        "de",
        "zh",
        "pt",
        "en",
    ]
    for given in (
        {"target": "xx"},
        {"target": "a target of more than twenty letters"},
        {"languages": ("en", "klingon")},
    ):
        with pytest.raises(ValueError, match=r"known language"):
            language_consistency(ENGLISH, **{"target": "en", **given} if "languages" in given else given)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nb", "no"), ("nn", "no"), ("nb-NO", "no"), ("Norwegian", "no"), ("Norwegian Bokmål", "no"), ("nynorsk", "no"),
        ("nob", "no"), ("Danish", "da"), ("Icelandic", "is"), ("Finnish", "fi"), ("Czech", "cs"), ("Hungarian", "hu"),
        ("Mandarin Chinese", "zh"), ("Chinese (Simplified)", "zh"), ("zh-Hans", "zh"), ("cmn", "zh"),
        ("Brazilian Portuguese", "pt"), ("Farsi", "fa"), ("Serbian (Latin)", "sr"), ("Latin", "la"), ("eng", "en"),
        ("swe", "sv"), ("dan", "da"), ("Tagalog", "tl"),
    ],
)  # fmt: skip
def test_languages_are_known_by_their_english_names_and_other_codes(name, code):
    assert language_code(name) == code


@pytest.mark.parametrize("name", ["", "python", "c++", "en route", "English or German", "Klingon", "x", "12"])
def test_what_names_no_language_or_two_is_no_language(name):
    with pytest.raises(ValueError, match="no known language"):
        language_code(name)


def test_every_known_language_has_a_name():
    assert {language_code(name) for name in _NAMES} == KNOWN


def test_a_question_in_a_close_language_is_not_taken_for_its_neighbour():
    asked = {"da": DANISH, "no": NORWEGIAN, "sv": SWEDISH, "ca": "Primer sumem el nombre de pomes dels dos cistells."}
    for code, text in asked.items():
        assert main_language(text) == code
        assert language_consistency(text, question=text).value >= CONSISTENT
    assert language_consistency(DANISH, question=SWEDISH).value < 0.1
    assert language_consistency(DANISH, prompt="5 + 6 =").reason == "da 1.00 of 58 words"


def test_a_sentence_of_a_close_language_among_many_of_the_target_is_found():
    mixed = f"{DANISH} {SWEDISH}"
    for target in ("da", "sv"):
        assert language_consistency(mixed, target=target).value == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a `b` c", "a c"),
        ("a ``b ` c`` d", "a d"),
        ("a ` b ``c`` d", "a ` b d"),
        ("a ` b\n```\nc\n```\nd ` e", "a ` b d ` e"),
        ("a `b\nc` d", "a `b c` d"),  # not over lines: a stray one would swallow a paragraph
        ("```\na\n````\nb", "b"),
        ("````\na\n```\nb", "```` a ``` b"),
        ("> ```\n> a\n> ```\nb", "> b"),
        ("x ```a``` y", "x y"),
        ("~~~\n```\n~~~\nb", "b"),
        ("```\na ``` b\n```\nc", "c"),
    ],
)
def test_backticks_pair_as_in_markdown(text, left):
    assert plain_text(text).split() == left.split()


def test_a_row_whose_language_is_a_programming_one_goes_by_its_question():
    for column in ("python", "c++", None, 3, ""):
        assert language_consistency(GERMAN, prompt=ENGLISH, question=GERMAN, language=column).value > 0.9
        assert language_consistency(ENGLISH, prompt=ENGLISH, question=GERMAN, language=column).value < 0.1


def test_a_question_without_words_leaves_the_say_to_its_prompt():
    assert language_consistency(GERMAN, prompt=ENGLISH, question="12 + 7 =").value < 0.1
    assert language_consistency(GERMAN, prompt="12 + 7 =", question="12 + 7 =").value > 0.9


def test_the_main_language_of_a_prompt_is_found():
    for code, text in (("en", ENGLISH), ("de", GERMAN), ("zh", CHINESE), ("ja", JAPANESE), ("ru", RUSSIAN)):
        assert main_language(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n") == code
    assert main_language("12 + 7 =") == ""


@pytest.mark.parametrize("russian", ["Сумма равна пяти.", "Складываем числа: умножим два на три."])
def test_a_short_sentence_that_is_a_little_likelier_in_a_close_language_has_the_benefit_of_the_doubt(russian):
    assert language_consistency(russian, target="ru").value == 1


def test_a_long_sentence_is_measured_in_parts_so_that_one_half_does_not_outvote_the_other():
    mixed = "we add the number of apples in both baskets wir teilen nun die Summe durch die Zahl der Kinder"
    assert language_consistency(mixed, target="en").value == pytest.approx(8 / 19)


def test_close_languages_are_told_apart_with_the_target_in_doubt():
    russian = "Она ест три яблока каждое утро за завтраком и печёт булочки для друзей."
    ukrainian = "Вона їсть три яблука щоранку на сніданок і пече булочки для друзів щодня."
    assert language_consistency(russian, target="ru").value == language_consistency(ukrainian, target="uk").value == 1
    assert language_consistency(russian, target="uk").value == language_consistency(ukrainian, target="ru").value == 0


def test_words_are_counted_by_language():
    assert word_counts(f"{ENGLISH} {GERMAN}") == {"en": 22, "de": 17}
    assert word_counts("ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ") == {"other": 2}
    assert word_counts("сумма чисел", ("en",)) == {"cyrillic": 2}


def test_mathematics_and_code_go_and_money_stays():
    assert plain_text("It is $x+1$ or `f(x)`.").split() == ["It", "is", "or", "."]
    assert plain_text("$5 and then $10") == "$5 and then $10"
    assert plain_text(r"a \frac{1}{2} b \(c\) d \[e\] f $$g$$ h").split() == ["a", "{1}{2}", "b", "d", "f", "h"]
    assert plain_text("a ```x``` b ``` c").split() == ["a", "b", "```", "c"]
    assert plain_text(rf"$\text{{{ENGLISH}}}$").strip() == ENGLISH.rstrip(".")


def test_the_chain_is_all_before_the_last_closing_tag():
    assert chain_of_thought("<think>a</think>b</think>c") == "<think>a</think>b"
    assert chain_of_thought("<think>a") == "<think>a"


def test_a_text_whose_language_is_not_given_is_classified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted again with its language's relatives, by the likelihoods that are known already."""
    ranked = list[str]()
    real = language._identifier

    class Counting:
        def __init__(self, candidates: tuple[str, ...]) -> None:
            self.real = real(candidates)

        def rank(self, text: str) -> list[tuple[str, float]]:
            ranked.append(text)
            return self.real.rank(text)

    monkeypatch.setattr(language, "_identifier", Counting)
    language._ranking.cache_clear()
    text = "Primero sumamos los dos números. Después dividimos el resultado entre cuatro manzanas rojas."
    assert language_consistency(text).reason.startswith("es 1.00")
    longest, *others = sorted(set(ranked), key=len, reverse=True)
    assert sorted(ranked) == sorted([longest, longest, *others])  # the longest part tells whose relatives count
    assert len(others) == 1
