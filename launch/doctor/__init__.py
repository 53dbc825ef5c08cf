"""`aha doctor RECIPE`: checks on the live cluster, in minutes, that nothing is silently wrong before the long run.

check.py           the result of a check, how checks are run in order, and how they are printed
exam.py            what the checks share: the started backend, and what was sampled on it
all_checks.py      the checks in their order
texts.py           template, end token, samples
numbers.py         logprobs and weights on both sides, updates, loss
after_update.py    whether the samplers compute with an update, also one that finds samples half drawn
reward_checks.py   every reward on cases with known scores (golden.py) and on the recipe's own rows
nodes.py           versions, ports, memory, disks (node_probe.py runs on each node)
durability.py      checkpoints, a killed sampler
doctor_backend.py  the backend calls that only the doctor uses; machines.py implements them
recipe_run.py      which run of a recipe with several stages is checked
"""
