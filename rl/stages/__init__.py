"""The kinds of stage, one a file: what a kind declares at its top, the loop that does its work below.

A new kind is a file here and a line in rl/recipe.py, which recipes import from.
"""
