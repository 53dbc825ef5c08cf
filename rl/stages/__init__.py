"""The kinds of stage, one file each: at its top what the kind declares, below it the loop that does the work.

A new kind needs a file here and a line in rl/recipe.py, from which recipes import it.
"""
