"""Setting and checking the values of rl.config and rl.recipe: overrides from the command line, JSON, ranges, and
settings that do not go together.
"""
