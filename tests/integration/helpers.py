"""A reward that tells samples of a random model apart, so that the tests' GRPO steps move the weights."""

import time


def digit_share(completion: str, **columns: object) -> float:
    """Share of the completion's characters that are digits."""
    return sum(c.isdigit() for c in completion) / max(1, len(completion))


def slow_digit_share(completion: str, **columns: object) -> float:
    """digit_share after half a second."""
    time.sleep(0.5)
    return digit_share(completion)


def always_zero(completion: str, **columns: object) -> float:
    """A dead verifier, for the doctor to find."""
    return 0.0


def raises(completion: str, **columns: object) -> float:
    """A verifier that looks for a column which is not there, for the doctor to find."""
    return float(columns["solution"] == completion)
