"""Does the model look? The question that is settled before any training."""

from foveal.evaluation import stats
from foveal.evaluation.records import Evaluation
from foveal.evaluation.stats import Estimate
from foveal.spec import FovealError


def gate(evaluation: Evaluation, *, margin: float = 0.0) -> Estimate:
    """How much more often the policy is right with the right picture than with another problem's.

    `mean_i (accuracy_i - accuracy_other_picture_i)` with its paired interval over the problems that found a
    donor. A policy that passes can still be blind to some attribute: see accuracy by family and grade.

    Raises: FovealError, when the interval does not lie above `margin`, or nothing was asked with another
    picture.
    """
    asked = [(r.accuracy_other_picture, r.accuracy) for r in evaluation.records]
    pairs = [(other, right) for other, right in asked if other is not None and right is not None]
    if not pairs:
        raise FovealError(
            "no problem was asked with another problem's picture, so nothing shows that the model looks; "
            "give problems with pictures and at least two different answers, and evaluate with other_picture"
        )
    other, right = zip(*pairs, strict=True)
    gain = stats.difference(other, right, key=("gate",), bounds=stats.CHANGE, level=evaluation.level)
    if gain.low <= margin:
        interval = f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        raise FovealError(
            f"the model does not look: {_percent(right)} right with the right picture, {_percent(other)} "
            f"with another problem's ({100 * gain.value:+.1f} points, interval {interval}, {len(pairs)} "
            f"problems); expected the interval to lie above {100 * margin:.1f}. Training would reward "
            "guessing from the words: start from a model that sees these pictures, check that questions keep "
            "their <image> marks, or give more problems if the interval is merely wide"
        )
    return gain


def _percent(values: tuple[float, ...]) -> str:
    return f"{100 * sum(values) / len(values):.1f} %"
