"""Scripts and the languages that are written in them, as a table."""

from __future__ import annotations

import re
from functools import cache, lru_cache

LANGUAGES = (
    "ar", "bn", "de", "el", "en", "es", "fa", "fr", "he", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv",
    "sw", "ta", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
"""What a text is told apart into by default; the target and its relatives are always added."""

SCRIPTS = {
    "latin": (
        "A-Za-zªºÀ-ÖØ-öø-ʯ\u0300-\u036fḀ-ỿ",
        "af az ca cs cy da de en eo es et eu fi fr ga gl ha hr hu id is it la lt lv ms mt nl no pl pt ro sk sl so sq "
        "sr sv sw tl tr uz vi xh yo zu",
    ),
    "han": ("\u3005\u3007㐀-䶿一-鿿\uf900-\ufaff\U00020000-\U0003ffff", "zh ja"),
    "kana": ("\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f", "ja"),
    "cyrillic": ("\u0400-\u052f", "be bg kk ky mk mn ru sr tg tt uk"),
    "hangul": ("\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3", "ko"),
    "arabic": ("\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f", "ar fa ps ug ur"),
    "thai": ("\u0e01-\u0e3a\u0e40-\u0e4e", "th"),
    "devanagari": ("\u0900-\u0963\u0971-\u097f", "hi mr ne sa"),
    "bengali": ("\u0980-\u09e5\u09f0-\u09f1", "as bn"),
    "telugu": ("\u0c00-\u0c63", "te"),
    "tamil": ("\u0b80-\u0be5", "ta"),
    "greek": ("\u0370-\u037d\u037f-\u0386\u0388-\u03ff\u1f00-\u1fff", "el"),
    "hebrew": ("\u0591-\u05bd\u05d0-\u05f4", "he"),
    "armenian": ("\u0531-\u0587", "hy"),
    "georgian": ("\u10a0-\u10ff", "ka"),
    "gurmukhi": ("\u0a00-\u0a65", "pa"),
    "gujarati": ("\u0a80-\u0ae5", "gu"),
    "oriya": ("\u0b00-\u0b65", "or"),
    "kannada": ("\u0c80-\u0ce5", "kn"),
    "malayalam": ("\u0d00-\u0d65", "ml"),
    "sinhala": ("\u0d80-\u0df3", "si"),
    "lao": ("\u0e81-\u0ece", "lo"),
    "burmese": ("\u1000-\u103f\u1050-\u109f", "my"),
    "ethiopic": ("\u1200-\u135f", "am"),
    "khmer": ("\u1780-\u17d3", "km"),
}
"""Script -> (its characters, its languages by their ISO 639 codes). Order is the order of trial."""

LANGUAGES_OF = {script: frozenset(languages.split()) for script, (_, languages) in SCRIPTS.items()}
KNOWN = frozenset().union(*LANGUAGES_OF.values())
WORDS_A_CHARACTER = {"han": 0.5, "kana": 0.5, "thai": 0.25, "lao": 0.25, "khmer": 0.25, "burmese": 0.25}
"""Scripts without spaces: how many words a character counts as."""

ONE_LETTER_IS_A_SYMBOL = frozenset(("latin", "greek", "cyrillic", "arabic", "hebrew"))
"""Where a single letter is a name in a formula, not a word."""

_RELATED = (
    "da is no sv", "af nl", "ca es gl pt", "id ms", "cs sk", "hr sl", "be bg mk ru uk", "hi mr ne", "ar fa ps ug ur",
    "as bn", "et fi", "lt lv", "az tr uz", "xh zu", "kk ky tt",
)  # fmt: skip
"""Languages so close that a text in one passes for the other where that is not among those told apart."""

_NAMES = {
    "afrikaans": "af", "albanian": "sq", "amharic": "am", "arabic": "ar", "armenian": "hy", "assamese": "as",
    "azerbaijani": "az", "basque": "eu", "belarusian": "be", "bengali": "bn", "bangla": "bn", "bokmal": "no",
    "bokmål": "no", "bulgarian": "bg", "burmese": "my", "castilian": "es", "catalan": "ca", "chinese": "zh",
    "croatian": "hr", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "esperanto": "eo",
    "estonian": "et", "farsi": "fa", "filipino": "tl", "finnish": "fi", "flemish": "nl", "french": "fr",
    "galician": "gl", "georgian": "ka", "german": "de", "greek": "el", "gujarati": "gu", "hausa": "ha", "hebrew": "he",
    "hindi": "hi", "hungarian": "hu", "icelandic": "is", "indonesian": "id", "irish": "ga", "italian": "it",
    "japanese": "ja", "kannada": "kn", "kazakh": "kk", "khmer": "km", "korean": "ko", "kyrgyz": "ky", "lao": "lo",
    "latin": "la", "latvian": "lv", "lithuanian": "lt", "macedonian": "mk", "malay": "ms", "malayalam": "ml",
    "maltese": "mt", "mandarin": "zh", "marathi": "mr", "mongolian": "mn", "nepali": "ne", "norwegian": "no",
    "nynorsk": "no", "odia": "or", "oriya": "or", "pashto": "ps", "persian": "fa", "polish": "pl", "portuguese": "pt",
    "punjabi": "pa", "romanian": "ro", "russian": "ru", "sanskrit": "sa", "serbian": "sr", "sinhala": "si",
    "slovak": "sk", "slovenian": "sl", "slovene": "sl", "somali": "so", "spanish": "es", "swahili": "sw",
    "swedish": "sv", "tagalog": "tl", "tajik": "tg", "tamil": "ta", "tatar": "tt", "telugu": "te", "thai": "th",
    "turkish": "tr", "uighur": "ug", "uyghur": "ug", "ukrainian": "uk", "urdu": "ur", "uzbek": "uz",
    "vietnamese": "vi", "welsh": "cy", "xhosa": "xh", "yoruba": "yo", "zulu": "zu",
}  # fmt: skip

_CODES = {
    "nb": "no", "nn": "no", "nob": "no", "nno": "no", "nor": "no", "cmn": "zh", "in": "id", "iw": "he", "fil": "tl",
    "ara": "ar", "ben": "bn", "ces": "cs", "dan": "da", "deu": "de", "ell": "el", "eng": "en", "fas": "fa", "fin": "fi",
    "fra": "fr", "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl",
    "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "spa": "es", "swa": "sw", "swe": "sv", "tam": "ta", "tel": "te",
    "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "zho": "zh",
}  # fmt: skip
"""Other codes of the languages: of three letters, former ones, and both written forms of Norwegian, which count as one.
"""


@cache
def relatives(language: str) -> frozenset[str]:
    """The language with those that it must be told apart from."""
    return frozenset((language,)).union(*(group.split() for group in _RELATED if language in group.split()))


def row_language(value: object) -> str:
    """The code of what a row's column "language" says; "" where that is null, or "python", or no language known."""
    try:
        return language_code(value) if isinstance(value, str) else ""
    except ValueError:
        return ""


@lru_cache(maxsize=256)
def language_code(name: str) -> str:
    """ "German", "de", "de-AT", "deu" and "DE_de" -> "de"; "nb" and "Norwegian (Bokmål)" -> "no"; "Mandarin Chinese" ->
    "zh". Raises ValueError for what is no known language, or several.
    """
    text = name.strip().lower()
    found = {_NAMES[word] for word in re.findall(r"[^\W_]+", text) if word in _NAMES}
    if len(found) > 1:
        found.discard("la")  # Serbian (Latin): a script
    if not found:
        code = re.split(r"[-_.]", text, maxsplit=1)[0]
        found = {_CODES.get(code, code)} & KNOWN
    if len(found) != 1:
        raise ValueError(f"{name!r} is no known language; there are {', '.join(sorted(KNOWN))}")
    return found.pop()
