"""Writes the picture and the tables of the shortcut study into README.md and docs/shortcut.md.

python docs/figures/readme.py                            # from docs/results alone
python docs/figures/readme.py --example runs/quickstart  # take another problem to show from a quickstart
"""

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any

from foveal.report import figures
from foveal.report.read import read_gallery
from foveal.report.readme import readme_figure

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "docs" / "results" / "shortcut_study.json"
EXAMPLE = ROOT / "docs" / "results" / "shortcut_example"
PICTURE = ROOT / "docs" / "images" / "shortcut.png"
PAGES = (ROOT / "README.md", ROOT / "docs" / "shortcut.md")

NAMES = {
    "grpo": "GRPO",
    "papo": "PAPO, gamma {weight:g}",
    "papo_published": "PAPO, gamma {weight:g} (published)",
    "cppo": "CPPO, lambda {weight:g}",
    "cppo_published": "CPPO, lambda {weight:g} (published)",
    "placebo": "placebo: PAPO's term, nothing hidden",
    "kl": "GRPO + KL to the start, {weight:g}",
}
ORDER = ("grpo", "kl", "cppo_published", "cppo", "papo_published", "placebo", "papo")
COLORS = {
    "grpo": figures.COLORS["grpo"],
    "kl": "#7a4fb0",
    "cppo": figures.COLORS["cppo"],
    "cppo_published": figures.COLORS["cppo"],
    "papo": figures.COLORS["papo"],
    "papo_published": figures.COLORS["papo"],
    "placebo": "#8a6d1f",
}
SAID = {"grpo": "GRPO says", "cppo": "CPPO says", "papo": "PAPO says"}


def load() -> dict[str, Any]:
    """The committed results."""
    return dict(json.loads(STUDY.read_text()))


def source() -> str:
    """A digest of what the picture shows."""
    parts = [
        STUDY.read_bytes(),
        *(file.read_bytes() for file in sorted(EXAMPLE.rglob("*")) if file.is_file()),
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def names(study: Mapping[str, Any]) -> dict[str, str]:
    """The arms that were run, in the order in which they are shown."""
    arms = study["arms"]
    found = {}
    for name in (name for name in ORDER if name in arms):
        weight = arms[name]["weight"]
        text = NAMES[name].format(weight=weight if weight is not None else 0.0)
        if weight is not None and weight == study["published"].get(name):
            text += " (published)"
        found[name] = text
    return found


def final(study: Mapping[str, Any], arm: str) -> list[Mapping[str, Any]]:
    """The reported runs of an arm, by seed."""
    rows = [row for row in study["rows"] if row["stage"] == "final" and row["arm"] == arm]
    return sorted(rows, key=lambda row: -1 if row["seed"] is None else row["seed"])


def span(values: list[float]) -> str:
    """Lowest to highest, in per cent."""
    low, high = f"{100 * min(values):.0f}", f"{100 * max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def table_arms(study: Mapping[str, Any]) -> str:
    """One line per arm."""
    heads = (
        "runs that fell for the word",
        "95 % interval",
        "right, word wrong, %",
        "right, word random, %",
        "describes the picture, %",
    )
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for start in final(study, "cold_start"):
        cells = [f"{100 * start[m]:.0f}" for m in ("accuracy_wrong", "accuracy_random", "describes")]
        lines.append(f"| before training | | | {' | '.join(cells)} |")
    for arm, name in names(study).items():
        own, share = final(study, arm), study["arms"][arm]["share"]
        interval = f"{100 * share['low']:.0f} to {100 * share['high']:.0f} %"
        cells = [span([row[m] for row in own]) for m in ("accuracy_wrong", "accuracy_random", "describes")]
        count = f"{study['arms'][arm]['fell']} of {study['arms'][arm]['runs']}"
        lines.append(f"| {name} | {count} | {interval} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_weights(study: Mapping[str, Any]) -> str:
    """The search: one line per weight."""
    lines = [
        "| method | weight | times the published one | right, word wrong, % (a run each) | fell |",
        "|---|---|---|---|---|",
    ]
    rows = [row for row in study["rows"] if row["stage"] == "weights"]
    for method, published in study["published"].items():
        arms = sorted({row["arm"] for row in rows if row["arm"].startswith(f"{method}_")}, key=weight_of)
        for arm in arms:
            own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["seed"])
            values = ", ".join(f"{100 * row['accuracy_wrong']:.0f}" for row in own)
            down = sum(row["accuracy_wrong"] < study["fell_below"] for row in own)
            mark = "**" if weight_of(arm) == study["best"][method] else ""
            weight, factor = f"{mark}{weight_of(arm):g}{mark}", weight_of(arm) / published
            lines.append(f"| {method.upper()} | {weight} | {factor:.0f} | {values} | {down} of {len(own)} |")
    return "\n".join(lines)


def weight_of(arm: str) -> float:
    """`papo_0.2` -> 0.2."""
    return float(arm.partition("_")[2])


def table_haze(study: Mapping[str, Any]) -> str:
    """The search: one line per haze."""
    lines = ["| haze | GRPO, right, word wrong, % (a run each) | fell |", "|---|---|---|"]
    rows = [row for row in study["rows"] if row["stage"] == "haze"]
    for haze in sorted({row["haze"] for row in rows}):
        own = sorted((row for row in rows if row["haze"] == haze), key=lambda row: row["seed"])
        values = ", ".join(f"{100 * row['accuracy_wrong']:.0f}" for row in own)
        down = sum(row["accuracy_wrong"] < study["fell_below"] for row in own)
        mark = "**" if haze == study["haze"] else ""
        lines.append(f"| {mark}{haze:.2f}{mark} | {values} | {down} of {len(own)} |")
    return "\n".join(lines)


def table_seeds(study: Mapping[str, Any]) -> str:
    """Accuracy with the word wrong, by arm and seed, and the mean cost."""
    shown = names(study)
    seeds = sorted({row["seed"] for arm in shown for row in final(study, arm)})
    lines = [f"| | {' | '.join(f'seed {s}' for s in seeds)} | CPU s |", "|---" * (len(seeds) + 2) + "|"]
    for arm, name in shown.items():
        own = {row["seed"]: row for row in final(study, arm)}
        cells = [f"{100 * own[s]['accuracy_wrong']:.0f}" if s in own else "–" for s in seeds]
        cpu = fmean(row["cpu_seconds"] for row in own.values())
        lines.append(f"| {name} | {' | '.join(cells)} | {cpu:.0f} |")
    return "\n".join(lines)


def sign_test(first: int, second: int) -> float:
    """Two-sided exact p of `first` against `second` discordant pairs."""
    pairs, low = first + second, min(first, second)
    return min(1.0, 2 * sum(comb(pairs, k) for k in range(low + 1)) / 2**pairs) if pairs else 1.0


def pairs_of_arms(study: Mapping[str, Any]) -> str:
    """What the same seeds say of PAPO against the others, and of CPPO against GRPO."""
    shown = names(study)
    lines = [
        "| same seed | only the first fell | only the second | both | neither | sign test, p |",
        "|---|---|---|---|---|---|",
    ]
    for one, other in (
        ("grpo", "papo"),
        ("placebo", "papo"),
        ("kl", "papo"),
        ("cppo", "papo"),
        ("grpo", "cppo"),
    ):
        if one not in shown or other not in shown:
            continue
        a, b = (
            {row["seed"]: row["accuracy_wrong"] < study["fell_below"] for row in final(study, arm)}
            for arm in (one, other)
        )
        both = [(a[seed], b[seed]) for seed in sorted(set(a) & set(b))]
        first, second = both.count((True, False)), both.count((False, True))
        counts = f"{first} | {second} | {both.count((True, True))} | {both.count((False, False))}"
        lines.append(f"| {shown[one]}, then {shown[other]} | {counts} | {sign_test(first, second):.2g} |")
    return "\n".join(lines)


TABLES = {
    "pairs": pairs_of_arms,
    "arms": table_arms,
    "weights": table_weights,
    "haze": table_haze,
    "seeds": table_seeds,
}


def filled(text: str, study: Mapping[str, Any]) -> str:
    """The page with its tables made from the results."""

    def replace(found: re.Match[str]) -> str:
        return f"<!-- {found[1]}: by docs/figures/readme.py -->\n{TABLES[found[1]](study)}\n<!-- end -->"

    return re.sub(
        r"<!-- (\w+): by docs/figures/readme\.py -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL
    )


def draw(study: Mapping[str, Any]) -> None:
    """The picture."""
    short = {"kl": "GRPO + KL\nto the start", "placebo": "placebo", "grpo": "GRPO"}
    arms = [
        {
            "label": short.get(
                arm, f"{arm.partition('_')[0].upper()}\n{study['arms'][arm]['weight'] or 0:g}"
            ),
            "color": COLORS[arm],
            "values": [row["accuracy_wrong"] for row in final(study, arm)],
            "fell": study["arms"][arm]["fell"],
            "runs": study["arms"][arm]["runs"],
        }
        for arm in names(study)
    ]
    start = final(study, "cold_start")[0]["accuracy_wrong"]
    readme_figure(
        read_gallery(EXAMPLE)[0], arms, said=SAID, start=start, below=study["fell_below"], out_png=PICTURE,
        source=source(),
    )  # fmt: skip


def take_example(folder: Path, *, number: int) -> None:
    """Copy one problem of a quickstart's gallery with its pictures."""
    item = json.loads((folder / "gallery.json").read_text())[number]
    shutil.rmtree(EXAMPLE, ignore_errors=True)
    for pair in item["pictures"]:
        for name in pair.values():
            (EXAMPLE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, EXAMPLE / name)
    (EXAMPLE / "gallery.json").write_text(json.dumps([item], indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--example", type=Path, help="a quickstart folder to take the shown problem from")
    parser.add_argument("--number", type=int, default=0, help="which problem of its gallery")
    words = parser.parse_args()
    if words.example is not None:
        take_example(words.example, number=words.number)
    study = load()
    draw(study)
    for page in PAGES:
        page.write_text(filled(page.read_text(), study))


if __name__ == "__main__":
    main()
