"""Exports a model for others: weights, template, generation settings, model card, and a Modelfile for Ollama."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rl.config import knob
from rl.context import StageRun
from rl.stage import Stage


@dataclass(frozen=True)
class Export(Stage):
    """Export a model for others. Output: a folder with weights, template, generation settings and model card."""

    model: str = knob("", "Model to export: @stage.")

    def run(self, at: StageRun) -> None:
        from rl.export.folder import Sampling, export_folder  # loads torch, which a recipe's author need not wait for

        shutil.rmtree(at.folder / "model", ignore_errors=True)
        source = Path(at.path(self.model, "model"))
        export_folder(source, at.folder / "model", ollama=True, sampling=Sampling())
