"""From a completion to a number: which rewards a row gets (routing), the reward functions (reward_functions) in
processes that can be killed (reward_processes), reward models (reward_model), and the scorer that turns them into
advantages.
"""
