"""What a run leaves on disk and shows while it goes: metrics, rollouts, checkpoints, provenance, W&B, the terminal.
Files are written so that a kill at any moment leaves them whole.
"""
