"""What a step's graded groups say by themselves, as metrics."""

from collections.abc import Callable, Sequence

from foveal.data.problems import DataSource
from foveal.data.world import WorldDataConfig
from foveal.types import Group


def group_metrics(groups: Sequence[Group], related: Callable[[str], float] | None) -> dict[str, float]:
    """Mean of each reward by name, over the completions that could be graded, and of `related`; accuracy by
    view, where completions were sampled under several."""
    found: dict[str, list[float]] = {}
    views = {completion.view for group in groups for completion in group.completions}
    for group in groups:
        for name, values in group.breakdown.items():
            found.setdefault(f"reward/{name}", []).extend(v for v in values if v is not None)
        for place, (completion, correct) in enumerate(zip(group.completions, group.correct, strict=True)):
            if len(views) > 1 and place not in group.excluded:
                found.setdefault(f"reward/accuracy_{completion.view}", []).append(float(correct))
    if related is not None:
        found["completion/relatedness"] = [related(c.text) for group in groups for c in group.completions]
    means = {name: sum(values) / len(values) if values else 0.0 for name, values in found.items()}
    return means | {"reward/excluded_count": float(sum(len(group.excluded) for group in groups))}


def relatedness(data: DataSource) -> Callable[[str], float] | None:
    """How much of a completion is the data's language, in [0, 1]; None where that is not known."""
    if not isinstance(data, WorldDataConfig):
        return None
    from foveal.worlds.text import grammar

    return grammar().share
