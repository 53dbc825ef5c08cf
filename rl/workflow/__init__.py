"""From a recipe to finished stages. run.py runs it; plan.py says what a layout of folders must provide, and
one_folder.py and stage_folders.py are the two layouts. stage_keys.py tells which stages are done already; inputs.py and
recipe_inputs.py load and check what a run reads from outside.
"""
