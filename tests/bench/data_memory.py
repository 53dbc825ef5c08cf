"""Memory and time until the first batch of SFT examples, for data of R1's size: python tests/bench/data_memory.py

R1 fine-tunes on 800,000 rows, most of them chains of thousands of tokens (2501.12948, B.3.3). Rows of a made-up file go
through load_rows and ExampleStream in a process of their own, which reports its memory that no file backs (RssAnon: what
the mapped rows take can be given back at any time) and the seconds. "dictionaries" is the same with all rows in a list.

A million rows cost what two sizes of file differ by, so that the interpreter and the tokenizer do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
WORDS = [
    "so",
    "the",
    "sum",
    "of",
    "these",
    "two",
    "numbers",
    "is",
    "then",
    "wait",
    "let",
    "me",
    "check",
    "that",
    "again",
    "because",
    "it",
    "must",
    "be",
    "even",
]
KINDS = ("jsonl", "json", "csv", "parquet", "dictionaries")
BATCH = 64


def write(path: Path, kind: str, rows: int, words: int) -> None:
    """A file of made-up rows, each with a chain of about so many words."""
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    def row(i: int) -> dict[str, object]:
        draw = random.Random(i)
        chain = " ".join(draw.choices(WORDS, k=draw.randint(words // 2, words * 3 // 2)))
        return {"prompt": f"What is {i} + {i}?", "answer": str(2 * i), "target": f"<think>{chain}</think>{2 * i}"}

    made = (row(i) for i in range(rows))
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(made)), path)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "answer", "target"])
            writer.writeheader()
            writer.writerows(made)
    elif kind == "json":
        with path.open("w") as file:
            file.write("[" + ",\n".join(map(json.dumps, made)) + "]")
    else:
        with path.open("w") as file:
            file.writelines(json.dumps(r) + "\n" for r in made)


def one(path: Path, kind: str) -> None:
    """Load, tokenise, draw a batch; print the numbers as JSON."""
    from tokenizers.pre_tokenizers import ByteLevel

    from rl.config import DataConfig
    from rl.data.rows import load_rows
    from rl.data.sft_examples import ExampleStream
    from tests.unit.conftest import byte_tokenizer

    tokenizer, began = byte_tokenizer(), time.perf_counter()
    # In words: of whole texts, which are all different, it would remember the tokens of the first 10,000.
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    cfg = DataConfig(source=str(path), template="plain")
    rows = load_rows(cfg)
    if kind == "dictionaries":
        rows = list(rows)
    loaded_s, loaded = time.perf_counter() - began, anonymous_bytes()
    stream = ExampleStream(rows, cfg, tokenizer, 0, 1 << 20)
    batch = stream.take(BATCH)
    assert len(batch) == BATCH
    first_s = time.perf_counter() - began
    print(json.dumps({"loaded_s": loaded_s, "first_s": first_s, "loaded": loaded, "ready": anonymous_bytes()}))


def anonymous_bytes() -> int:
    """Memory of this process that is in use and in no file: what was freed is given back first."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


def measure(path: Path, kind: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", str(path), kind]
    # What allocators keep of freed memory, Arrow's own and one for each thread, is no memory of the rows.
    env = os.environ | {
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16000, help="of the larger file; the smaller one has a quarter")
    parser.add_argument("--words", type=int, default=300, help="of a chain, on average")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument(
        "--one", nargs=2, metavar=("FILE", "KIND"), help="measure in this process (used by the command itself)"
    )
    args = parser.parse_args()
    if args.one:
        one(Path(args.one[0]), args.one[1])
        return
    print(f"{args.rows:,} rows of {args.words:,} words; a million rows cost:")
    print(f"{'kind':14s}{'loaded, GB':>12s}{'ready, GB':>12s}{'loaded, s':>12s}{'first batch, s':>16s}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kinds:
            sizes, found = (args.rows // 4, args.rows), []
            for rows in sizes:
                path = Path(folder) / f"rows.{'jsonl' if kind == 'dictionaries' else kind}"
                write(path, kind, rows, args.words)
                found.append(measure(path, kind))
            per_million = {key: (found[1][key] - found[0][key]) / (sizes[1] - sizes[0]) * 1e6 for key in found[0]}
            print(
                f"{kind:14s}{per_million['loaded'] / 1e9:12.3f}{per_million['ready'] / 1e9:12.3f}"
                f"{per_million['loaded_s']:12.0f}{per_million['first_s']:16.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
