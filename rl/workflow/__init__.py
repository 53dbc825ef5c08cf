"""From a recipe to finished stages: what is done already (stage_keys, plan), what is missing (inputs, recipe_inputs),
and the run itself (run_recipe, run_one).
"""
