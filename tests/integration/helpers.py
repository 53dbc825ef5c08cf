"""A reward that tells samples of a random model apart, so that the tests' GRPO steps move the weights."""


def digit_share(completion: str, **columns: object) -> float:
    """Share of the completion's characters that are digits."""
    return sum(c.isdigit() for c in completion) / max(1, len(completion))
