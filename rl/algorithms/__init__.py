"""The mathematics of training, as pure functions: rewards become advantages (advantage); token logprobs (logprobs)
become a loss (policy_loss, reward_loss, distill). Nothing here knows data, files or machines.
"""
