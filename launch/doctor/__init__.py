"""`aha doctor RECIPE`: on the live cluster, in minutes, that nothing is silently wrong before the long run.

check.py    what a check says, how checks follow one another, and how they are printed
exam.py     the started backend and what has been sampled on it: what the checks share
texts.py    template, end token, samples                    nodes.py    versions, ports, memory, disks
numbers.py  logprobs, weights on both sides, updates, loss  lasting.py  checkpoints, a killed sampler
reward_checks.py  every reward on cases whose scores are known (golden.py) and on the recipe's own rows
rounds.py   the checks in their order
"""
