"""`aha report`: one self-contained HTML file of a run, or of two side by side. It opens without a network.

reading.py   a run's folder -> Run, as it was written
charts.py    Run -> which curves there are, thinned; phases of each step
rollouts.py  Run -> a sample of its rollouts, cut into tokens
results.py   Run -> the results table, facts, differences of the configs
page.py      all of it as JSON in page.html, with style.css and the scripts: the scripts draw everything
"""

from __future__ import annotations

from launch.report.page import write_report

__all__ = ["write_report"]
