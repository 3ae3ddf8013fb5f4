"""Coefficients that change over training: pure functions of the step."""


def linear_decay(step: int, *, start: float, end: float, steps: int) -> float:
    """The value after `step` finished steps: from `start` to `end` in `steps` equal parts, then `end`.

    start + (end - start) min(step / steps, 1)

    >>> [linear_decay(step, start=0.5, end=0.25, steps=2) for step in range(4)]
    [0.5, 0.375, 0.25, 0.25]
    """
    return start + (end - start) * min(step / steps, 1.0)
