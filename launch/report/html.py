"""Writes a page as one HTML file: page.html with its style, its scripts and its data. What a run wrote is never code.

The data is JSON in a script element that browsers do not run. It holds escapes for "<", ">" and "&", so that nothing in
it can end the element. The scripts insert texts as text nodes only. A content security policy allows only this file's
own scripts, by their hashes, and no request.
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
    """Write make(budget) as HTML to `out`, whole or not at all. Returns out.

    A page over 10 MB is made again with half the budget, down to `least`. Raises AhaError when that is too large too
    (without: what the page then leaves out, for the message), and BadInput when out's folder does not exist.
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
    """The bytes of the file, UTF-8. scripts: names of files in this folder, in the order in which they run."""
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
    # Every second piece is a name. Replaced text is not searched again, because a rollout may hold "@@TITLE@@".
    text = "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
    return text.encode("utf-8", "replace")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def inert_json(value: object) -> str:
    """JSON without characters that mean something in HTML or JavaScript, or that files cannot hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029\x7f\ufeff":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
