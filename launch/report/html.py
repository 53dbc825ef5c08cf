"""A page as one HTML file: page.html with its style, its scripts and its data inside. What a run wrote stays inert.

The data is JSON in a script element that no browser runs. "<", ">" and "&" in it are escapes, so nothing in it can end
the element; the scripts put texts into the page as text nodes only; and a content security policy lets run, by their
hash, this file's own scripts alone, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from rl.records.whole_files import write_whole
from rl.types import AhaError, BadInput

MOST_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows; its scripts find the fields as JSON. written: Unix time."""

    title: str
    written: float


def write_page(
    out: Path, make: Callable[[int], Shown], scripts: Sequence[str], budget: int, least: int, without: str
) -> Path:
    """Write make(budget) as HTML to out and return it: whole or not there, at any moment.

    A page over 10 MB is made again with half the budget, down to least. Raises AhaError when that is too large as well
    (without: what it then goes without, for the message), BadInput when out's folder is not there.
    """
    text = render(make(budget), scripts)
    while len(text) > MOST_BYTES and budget > least:
        budget //= 2
        text = render(make(budget), scripts)
    if len(text) > MOST_BYTES:
        raise AhaError(f"{out}: the report would take {len(text):,} bytes {without}; at most {MOST_BYTES:,}")
    if not out.parent.is_dir():
        raise BadInput(f"{out}: no such folder as {out.parent}")
    write_whole(out, text)
    return out


def render(page: Shown, scripts: Sequence[str]) -> bytes:
    """The file's bytes, UTF-8. scripts: names in this folder, run in this order."""
    folder = files("launch.report")
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in scripts)
    script = f'(() => {{\n"use strict";\n{script}\n}})();'
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'"
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(page.title),
        "STYLE": style,
        "DATA": inert_json(asdict(page)),
        "SCRIPT": script,
    }
    pieces = folder.joinpath("page.html").read_text(encoding="utf-8").split("@@")
    # Odd pieces are names. What is put in is not looked at again: a rollout may hold "@@TITLE@@".
    text = "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
    return text.encode("utf-8", "replace")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def inert_json(value: object) -> str:
    """JSON that holds no character with a meaning in HTML or JavaScript, nor one that files cannot hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029\x7f\ufeff":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
