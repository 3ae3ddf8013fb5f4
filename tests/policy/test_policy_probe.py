"""The fastest way to attend: measured on a row of the run's shape, with a margin, in bounded time."""

from dataclasses import replace

import pytest
import torch

from foveal.policy import probe
from foveal.policy.attention import AttentionPath
from foveal.policy.probe import LONGEST_ROW, RowShape, fastest_path

SHAPE = RowShape(prompt=20, completion=5, group=4, prompts=3, heads=4, kv_heads=2, width=8)
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> list[tuple[str, RowShape]]:
    """Let each way take these seconds; what was asked for."""
    asked: list[tuple[str, RowShape]] = []

    def found(path: AttentionPath, shape: RowShape, *rest: object) -> float:
        asked.append((path, shape))
        return seconds[path]

    monkeypatch.setattr(probe, "_seconds", found)
    return asked


@pytest.mark.parametrize(
    ("dense", "wanted"),
    [(0.69, "dense"), (0.71, "split"), (1.5, "split")],
    ids=["clearly", "hardly", "slower"],
)
def test_another_way_is_taken_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, dense: float, wanted: str
) -> None:
    seconds = {"split": 1.0, "tiled": 2.0, "dense": dense}
    timed(monkeypatch, seconds)
    assert fastest_path("split", SHAPE, **CPU) == (wanted, seconds)  # type: ignore[arg-type]


def test_the_dense_mask_is_not_tried_on_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, {"split": 1.0, "tiled": 2.0, "dense": 0.1})
    long = replace(SHAPE, prompt=6000, prompts=1)
    assert fastest_path("split", long, **CPU)[0] == "split"  # type: ignore[arg-type]
    assert [path for path, _ in asked] == ["split", "tiled"]


@pytest.mark.parametrize(
    "shape",
    [
        replace(SHAPE, prompts=500),
        replace(SHAPE, completion=4096, group=16),
        replace(SHAPE, prompt=1900, completion=100),
    ],
)
def test_the_row_that_is_tried_is_bounded(shape: RowShape) -> None:
    fitted = shape.fitted()
    assert fitted.size <= LONGEST_ROW + shape.prompt
    assert fitted.prompt == shape.prompt and min(fitted.completion, fitted.group, fitted.prompts) >= 1
    assert (fitted.heads, fitted.kv_heads, fitted.width) == (4, 2, 8)


def test_a_small_row_is_tried_as_it_is() -> None:
    assert SHAPE.fitted() == SHAPE
    assert SHAPE.size == 3 * (20 + 4 * 5)


def test_every_way_is_really_run_and_timed() -> None:
    path, seconds = fastest_path("split", SHAPE, **CPU)  # type: ignore[arg-type]
    assert set(seconds) == {"split", "tiled", "dense"}
    assert all(0 < value < 5 for value in seconds.values())
    assert path == "split" or seconds[path] < probe.MARGIN * seconds["split"]


def test_no_way_is_tried_again_once_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    attend = probe.PackedLayout.attend

    def counted(self: object, *given: object) -> torch.Tensor:
        runs.append(1)
        return attend(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(probe.PackedLayout, "attend", counted)
    monkeypatch.setattr(probe, "LIMIT_S", -1.0)
    fastest_path("split", SHAPE, **CPU)  # type: ignore[arg-type]
    assert len(runs) == 3
