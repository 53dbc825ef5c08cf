"""Splits texts into the pieces of their tokens, and cuts the middle out of long texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from launch.report.reading import Run

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def units(text: str) -> int:
    """The number of UTF-16 units, which browsers count. "a🙂" -> 3."""
    return len(text) + sum(c > "\uffff" for c in text)


@dataclass(frozen=True, slots=True)
class Cut:
    """A text without its middle. left_out: the number of characters that are left out.

    kept: the indices of the tokens in head and tail. lengths: their UTF-16 units. Both are empty without tokens.
    """

    head: str
    tail: str
    left_out: int
    kept: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def joined(self) -> str:
        return self.head + (f" … {self.left_out:,} characters left out … " if self.left_out else "") + self.tail


def cut_text(text: str, most: int) -> Cut:
    """Keep two thirds of `most` characters at the start and one third at the end. "0123456789", 6 -> "0123", "89"."""
    first, last = _shares(most)
    return Cut(text[:first], text[-last:], len(text) - most) if len(text) > most else Cut(text, "", 0)


def _shares(most: int) -> tuple[int, int]:
    return 2 * most // 3, most - 2 * most // 3


class Tokens:
    """A run's tokenizer, if it was found."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    @property
    def found(self) -> bool:
        return self._tokenizer is not None

    def cut(self, token_ids: Sequence[int], text: str, most: int) -> Cut:
        """cut_text between whole tokens; a stop token that is not in the text stands at its end.

        Only the tokens that are kept are looked at. Without tokens in the result where they are not known or do not
        make up the text: then they are another tokenizer's.
        """
        if self._tokenizer is None or not len(token_ids):
            return cut_text(text, most)
        first, last = _shares(most)
        head = self._pieces(token_ids, len(text) + 1 if len(text) <= most else first)
        if len(head) == len(token_ids):
            whole = "".join(head)
            return _cut(head, [], 0, len(head), 0) if whole.startswith(text) else cut_text(text, most)
        start = max(len(head), len(token_ids) - last - 4)
        # The window may begin inside a character. Then its first tokens are left out too.
        for at in range(start, min(start + 4, len(token_ids))):
            tail = self._pieces(token_ids[at:], len(text))
            body = "".join(tail)
            if not text.endswith(body):  # a stop token after the text; an incomplete character is not one
                body = "" if "\ufffd" in body else "".join(tail[:-1])
            fits = body and text.startswith("".join(head)) and text.endswith(body)
            if fits and len(tail) == len(token_ids) - at:
                left_out = len(text) - len("".join(head)) - len(body)
                return _cut(head, tail, left_out, len(token_ids), at) if left_out >= 0 else cut_text(text, most)
        return cut_text(text, most)

    def _pieces(self, token_ids: Sequence[int], most: int) -> list[str]:
        """What each token adds, "" for the first bytes of a character that a later one completes.

        Ends before the token that would exceed `most` characters, unless that is the last one (the stop token).
        """
        from tokenizers.decoders import DecodeStream

        assert self._tokenizer is not None
        stream, pieces, length = DecodeStream(skip_special_tokens=False), list[str](), 0
        for i, token in enumerate(token_ids):
            piece = stream.step(self._tokenizer, int(token)) or ""
            length += len(piece)
            if length > most and i + 1 < len(token_ids):
                break
            pieces.append(piece)
        return pieces


def _cut(head: Sequence[str], tail: Sequence[str], left_out: int, count: int, at: int) -> Cut:
    kept = [*range(len(head)), *(range(at, count) if tail else ())]
    return Cut("".join(head), "".join(tail), left_out, kept, [units(piece) for piece in (*head, *tail)])


def read_tokens(run: Run) -> Tokens:
    """The tokenizer of the trained model: from the run's folder, or else from where the model came from."""
    folders = [run.folder / "model", run.folder / "sft", *sorted(run.folder.glob("*/*/"))]
    if run.config:
        folders.append(Path(run.config.model.path))
    for folder in folders:
        path = folder / "tokenizer.json"
        if path.is_file():
            from tokenizers import Tokenizer

            return Tokens(Tokenizer.from_file(str(path)))
    return Tokens(None)
