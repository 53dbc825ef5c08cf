"""What a run writes to disk and shows while it goes on: metrics, rollouts, checkpoints, provenance, W&B, the terminal.
All of it goes through whole_files.py, so that a kill at any moment leaves whole files.
"""
