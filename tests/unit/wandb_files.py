"""What W&B wrote offline, read from its own files: what reached W&B is what these hold."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

WRITTEN_S = 20.0
"""W&B's own process writes on after finish(): the last record, which says how the run ended, is waited for so long."""


def offline_files(run_dir: Path) -> list[Path]:
    """The files of run_dir, the oldest first, each whole."""
    from wandb.proto import wandb_internal_pb2

    paths = sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    deadline = time.monotonic() + WRITTEN_S
    for path in paths:
        while True:
            record = wandb_internal_pb2.Record()
            record.ParseFromString((list(_frames(path.read_bytes())) or [b""])[-1])
            if record.WhichOneof("record_type") == "exit":
                break
            assert time.monotonic() < deadline, f"W&B did not end {path}"
            time.sleep(0.02)
    return paths


def offline_history(run_dir: Path) -> Iterator[dict[str, object]]:
    """What was logged, a dict a call, over all the offline files of run_dir, the oldest first."""
    from wandb.proto import wandb_internal_pb2

    for path in offline_files(run_dir):
        for raw in _frames(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(raw)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _frames(data: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format behind a header of 7 bytes. Ends where a kill cut the file.

    Blocks of 32 KiB hold chunks of checksum (4 bytes), length (2), kind (1): whole, first, middle or last part.
    """
    block, header, at, parts = 1 << 15, 7, 7, list[bytes]()
    while at + header <= len(data):
        if block - at % block < header:  # too short for a chunk: filled with zeros
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        chunk = data[at + header : at + header + length]
        if kind == 0 or len(chunk) < length:
            return
        at += header + length
        parts = [chunk] if kind in (1, 2) else [*parts, chunk]
        if kind in (1, 4):
            yield b"".join(parts)
