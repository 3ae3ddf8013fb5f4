"""Lines of a run folder as a DataFrame."""

from collections.abc import Mapping, Sequence
from typing import Any

from foveal.spec import FovealError


def frame(lines: Sequence[Mapping[str, Any]]) -> Any:  # noqa: ANN401
    """A pandas DataFrame of the lines, columns in the order in which they first stand.

    Raises: FovealError, when pandas is missing.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise FovealError(
            "metrics and completions are given as DataFrames, but pandas is missing: pip install pandas; the "
            "files themselves are metrics.jsonl and completions.jsonl in the run folder"
        ) from error
    return pandas.DataFrame(list(lines))
