"""The pages: what they claim, what they survive, and that they load nothing."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveal.evaluation.stats import Estimate
from foveal.report import claims, figures
from foveal.report.page import write_report
from foveal.report.read import read_gallery, read_jsonl, read_results
from foveal.report.readme import readme_figure
from foveal.report.run_page import write_run_report
from foveal.report.shortcut import FELL_BELOW, fell, read_shortcut, sentences
from foveal.spec import FovealError

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} $\\frac & \u2028 ]]> -->"


class Tags(HTMLParser):
    """Every tag with its attributes, and all text outside styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def change(path: Path, edit: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_page_loads_nothing_and_runs_nothing(folder: Path) -> None:
    found = Tags(page(folder))
    assert not found.names & {"script", "iframe", "object", "embed", "link", "base", "form"}
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:image/png;base64,"))
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and "default-src 'none'" in policy and "script" not in policy


def test_page_shows_the_table_the_gallery_and_every_section(folder: Path) -> None:
    text = page(folder)
    found = Tags(text)
    for section in (
        "results",
        "differences",
        "curves",
        "gallery",
        "errors",
        "groups",
        "reproduce",
    ):
        assert ("section", {"id": section}) in found.tags
        assert f'href="#{section}"' in text
    assert sum(tag == "img" for tag, _ in found.tags) == 6
    assert text.count("<svg") == 6  # five curves, differences
    assert "make quickstart" in found.text and "left out here" not in found.text
    row = next(r for r in read_results(folder).rows if r.method == "cold_start")
    assert row.accuracy is not None and f"{100 * row.accuracy:.1f}" in found.text


def test_ids_of_figures_do_not_collide(folder: Path) -> None:
    ids = re.findall(r"<svg.*?</svg>", page(folder), flags=re.DOTALL)
    seen = [set(re.findall(r'\bid="([^"]+)"', one)) for one in ids]
    assert sum(len(s) for s in seen) == len(set().union(*seen))
    for one, own in zip(ids, seen, strict=True):
        assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', one)) <= own


def test_same_files_give_the_same_page(folder: Path) -> None:
    assert page(folder) == page(folder)


def test_hostile_text_is_shown_as_text(folder: Path) -> None:
    said = {
        "text": HOSTILE,
        "kind": HOSTILE,
        "tokens": [{"text": HOSTILE, "kl_prcp": 1, "entropy_shift": -1}],
    }
    item = {
        "problem_id": HOSTILE,
        "question": HOSTILE,
        "answer": HOSTILE,
        "before": said,
        "after": {HOSTILE: said},
    }
    change(folder / "gallery.json", lambda g: g.append(item))
    change(folder / "curves.json", lambda c: c.update({HOSTILE: c["grpo"]}))
    change(
        folder / "summary.json", lambda s: s["rows"].append({"method": HOSTILE, "seed": 0, "accuracy": 0.5})
    )
    change(folder / "report_notes.json", lambda n: n.update({HOSTILE: HOSTILE, "command": HOSTILE}))
    change(
        folder / "comparisons.json",
        lambda c: c["pairs"].append({**c["pairs"][0], "a": HOSTILE, "b": HOSTILE}),
    )
    found = Tags(page(folder))
    assert "script" not in found.names
    assert not [1 for _, attributes in found.tags if "onerror" in attributes]
    assert found.text.count("<script>alert(1)</script>") >= 8 and "{{ 7 * 7 }}" in found.text


def test_names_in_figures_are_cleaned_and_no_mathematics_is_read() -> None:
    assert figures.label("<b>$x$&\u202e") == " b  x   "
    assert figures.label("a" * 60) == "a" * 39 + "."
    rows = [{"step": float(s), "reward/mean": 0.5} for s in range(3)]
    figure = figures.curve_figure({"$\\frac<": {"0": rows}, "b": {"0": rows}}, "reward/mean", caption="$_^")
    assert figure is not None
    drawn = figures.svg(figure, name="x")
    assert drawn.startswith("<svg") and "frac<" not in drawn and "<!--" not in drawn


def test_missing_files_leave_their_sections_out_and_are_named(folder: Path) -> None:
    for name in ("curves", "gallery", "report_notes"):
        (folder / f"{name}.json").unlink()
    found = Tags(page(folder))
    for section in ("curves", "gallery"):
        assert ("section", {"id": section}) not in found.tags
    assert "left out here: curves.json, gallery.json." in found.text
    assert ("section", {"id": "differences"}) in found.tags


def test_missing_comparisons_are_made_from_the_evaluations(folder: Path) -> None:
    before = read_results(folder).comparisons
    (folder / "comparisons.json").unlink()
    after = json.loads(json.dumps(read_results(folder).comparisons))
    assert {(p["a"], p["b"]) for p in after["pairs"]} >= {("cold_start", "papo"), ("cold_start", "grpo")}
    assert {m["method"]: m for m in after["methods"]} == {m["method"]: m for m in before["methods"]}


def test_summary_alone_makes_a_page_that_claims_nothing(tmp_path: Path) -> None:
    rows = [
        {"method": "grpo", "seed": 0, "accuracy": 0.5},
        {"method": "cold_start", "seed": None, "accuracy": 0.4},
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"schema_version": 1, "rows": rows}))
    found = Tags(page(tmp_path))
    assert "Nothing was compared, so nothing is claimed" in found.text
    assert found.text.index("cold start") < found.text.index("GRPO"), "the start comes first"


def test_evaluations_alone_make_a_page(folder: Path) -> None:
    for path in folder.glob("*.json"):
        path.unlink()
    found = Tags(page(folder))
    assert "More of 300 held-out problems are right than before training" in found.text


def test_nothing_to_show_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="nothing to show"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(FovealError, match=r"summary\.json is not JSON"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"rows": 3}')
    with pytest.raises(FovealError, match='no list "rows"'):
        write_report(tmp_path)


def test_values_of_the_wrong_type_are_left_out(folder: Path) -> None:
    change(
        folder / "summary.json", lambda s: s["rows"].append({"method": "odd", "seed": "x", "accuracy": "<b>"})
    )
    change(
        folder / "curves.json",
        lambda c: c.update(odd={"0": [{"step": 1, "reward/mean": "<b>"}, 3]}, even=[1]),
    )
    change(folder / "gallery.json", lambda g: g.extend([3, {"after": 3, "before": [], "pictures": {"x": 1}}]))
    assert "odd" in Tags(page(folder)).text


def test_pictures_outside_the_folder_are_not_embedded(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("other") / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    (folder / "link.png").symlink_to(secret)
    (folder / "text.txt").write_text("secret")
    names = [str(secret), f"../{secret.parent.name}/secret.png", "link.png", "text.txt", "absent.png", 3]
    change(
        folder / "gallery.json", lambda g: g[0].update(pictures=[{"clean": n, "removed": n} for n in names])
    )
    first = read_results(folder).gallery[0]
    assert [(p.clean, p.removed) for p in first.pictures] == [(None, None)] * 6


def test_report_imports_no_torch_and_no_trainer(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from foveal.report.page import write_report\n"
        "from foveal.report import readme, run_page, shortcut\n"
        f"write_report(Path({str(folder)!r}))\n"
        "heavy = ('torch', 'transformers', 'foveal.train', 'foveal.types')\n"
        "bad = [m for m in sys.modules if m.startswith(tuple(f'{h}.' for h in heavy)) or m in heavy]\n"
        "assert not bad, bad; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def quantity(
    over: tuple[float, float], seeds: list[tuple[float, float]], both: tuple[float, float]
) -> dict[str, Any]:
    def one(bounds: tuple[float, float], count: int) -> dict[str, Any]:
        return Estimate(value=sum(bounds) / 2, low=bounds[0], high=bounds[1], count=count).to_json()

    return {
        "per_seed": [one(bounds, 300) for bounds in seeds],
        "over_seeds": one(over, len(seeds)),
        "two_level": one(both, len(seeds)),
    }


def test_a_claim_about_a_method_needs_both_intervals_and_three_seeds() -> None:
    clear, wide = (0.02, 0.10), (-0.02, 0.14)
    assert claims.strength(quantity(clear, [clear] * 3, clear), problems=300) == "method"
    assert claims.strength(quantity(wide, [clear] * 3, clear), problems=300) == "runs"
    assert claims.strength(quantity(clear, [clear] * 2, clear), problems=300) == "runs"
    assert claims.strength(quantity(wide, [clear, wide], clear), problems=300) == "none"
    assert claims.strength(quantity(clear, [clear, (-0.1, -0.02)], clear), problems=300) == "none"
    assert claims.strength(quantity(clear, [clear] * 3, clear), problems=20) == "none"
    assert claims.strength({}, problems=300) == "none"


def pair(a: str, b: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"a": a, "b": b, "problems": 1000, "seeds": [0, 1, 2], "accuracy": value}


def test_headline_says_what_intervals_carry_and_no_more() -> None:
    up, flat = (
        quantity((0.08, 0.12), [(0.05, 0.15)] * 3, (0.07, 0.13)),
        quantity((-0.1, 0.1), [(-0.1, 0.1)] * 3, (-0.1, 0.1)),
    )
    down = quantity((-0.12, -0.08), [(-0.15, -0.05)] * 3, (-0.13, -0.07))
    same = {
        "pairs": [pair("cold_start", "grpo", up), pair("cold_start", "papo", up), pair("grpo", "papo", flat)]
    }
    assert claims.headline(same) == [
        "More of 1,000 held-out problems are right than before training: GRPO +10.0 and PAPO +10.0 points.",
        "No difference between the methods is shown.",
    ]
    mixed = {
        "pairs": [
            pair("cold_start", "grpo", flat),
            pair("cold_start", "papo", down),
            pair("grpo", "papo", down),
        ]
    }
    assert claims.headline(mixed) == [
        "Fewer are right: PAPO −10.0 points; no change against the cold start is shown for GRPO.",
        "PAPO differs from GRPO by −10.0 points.",
    ]
    two = quantity((-0.1, 0.3), [(0.05, 0.15)] * 2, (0.05, 0.15))
    assert (
        "too few seeds to speak of the method"
        in claims.headline({"pairs": [pair("cold_start", "cppo", two)]})[0]
    )
    assert claims.headline({}) == []


def test_readme_figure_is_a_picture_that_names_its_source(words_folder: Path) -> None:
    item = read_gallery(words_folder)[0]
    arms = [
        {"label": "GRPO", "color": "#3466b1", "values": [0.15, 0.9], "fell": 1, "runs": 2},
        {"label": "PAPO", "color": "#d9662b", "values": [0.9], "fell": 0, "runs": 1},
    ]
    said = {"grpo": "GRPO says", "papo": "PAPO says"}
    out = words_folder / "docs" / "result.png"
    readme_figure(item, arms, said=said, start=0.4, below=0.5, out_png=out, source="the digest")
    with Image.open(out) as image:
        assert image.size == (1768, 731) and image.info["Source"] == "the digest"
        assert len(image.convert("RGB").getcolors(1_000_000) or []) > 100
    with pytest.raises(FovealError, match="no completion of dapo"):
        readme_figure(item, arms, said={"dapo": ""}, start=0.4, below=0.5, out_png=out, source="")


def test_run_page_has_metrics_and_escaped_completions(tmp_path: Path) -> None:
    rows = [
        {"step": s, "reward/mean": 0.5, "validation/accuracy": 0.4 + s / 100, "note": "x"} for s in range(9)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 9, "rew')
    said = [
        {"step": s, "problem_id": f"p{s}", "text": HOSTILE, "correct": s % 2 == 0, "reward": 1.0}
        for s in range(90)
    ]
    (tmp_path / "completions.jsonl").write_text("\n".join(map(json.dumps, said)))
    (tmp_path / "config.toml").write_text(f'x = "{HOSTILE}"')
    found = Tags(write_run_report(tmp_path).read_text(encoding="utf-8"))
    assert "script" not in found.names and found.text.count("<script>alert(1)</script>") == 31
    assert "48.0 % at step 8" in found.text and "9 steps recorded" in found.text
    assert (
        "step 0 · p0 · reward 1.00 · right" in found.text
        and "step 89 · p89 · reward 1.00 · wrong" in found.text
    )
    assert sum(tag == "svg" for tag, _ in found.tags) == 2


def test_run_page_needs_steps(tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="has no steps"):
        write_run_report(tmp_path)


def test_a_broken_line_inside_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 2}\n')
    with pytest.raises(FovealError, match="line 2 is not JSON"):
        read_jsonl(tmp_path / "m.jsonl")


def test_shortcut_page_shows_each_run_and_counts_what_fell(words_folder: Path) -> None:
    found = Tags(page(words_folder))
    assert "A word gives the answer away. Who still looks?" in found.text
    assert "GRPO in 2 of 2 runs, CPPO in 1 of 2 runs, PAPO in 0 of 2 runs" in found.text
    assert "These runs are examples" in found.text
    for cell in ("2 of 2", "15.0 \u2013 20.0", "seed 1", "fell", "stands for", "follows the word"):
        assert cell in found.text
    assert {a["id"] for t, a in found.tags if t == "section"} == {"results", "curves", "gallery", "reproduce"}
    assert "script" not in found.names and "left out here" not in found.text


def test_shortcut_page_shows_hostile_text_as_text(words_folder: Path) -> None:
    change(words_folder / "summary.json", lambda s: s["rows"].append({**s["rows"][1], "method": HOSTILE}))
    change(words_folder / "gallery.json", lambda g: g[0].update(word=HOSTILE, question=HOSTILE))
    found = Tags(page(words_folder))
    assert "script" not in found.names and found.text.count("<script>alert(1)</script>") >= 3


def test_shortcut_rows_need_their_measures(words_folder: Path) -> None:
    change(words_folder / "summary.json", lambda s: s["rows"][2].pop("follow"))
    with pytest.raises(FovealError, match="row 2 has no number for follow"):
        page(words_folder)


def test_a_run_fell_below_a_half_and_not_at_it() -> None:
    assert fell({"accuracy_wrong": FELL_BELOW - 0.01}) and not fell({"accuracy_wrong": FELL_BELOW})


def test_shortcut_sentences_give_exact_intervals_from_five_runs_on(words_folder: Path) -> None:
    rows = read_shortcut(words_folder)
    eight = [
        {"method": "grpo", "seed": seed, "accuracy_wrong": 0.2 if seed else 0.9, "describes": 0.1}
        for seed in range(8)
    ]
    assert "GRPO in 7 of 8 runs (47 to 100\N{NO-BREAK SPACE}%)" in sentences(eight)[
        0
    ] and "examples" not in " ".join(sentences(eight))
    assert sentences(rows)[2] == (
        "The runs that fell describe the picture in 5 to 10\N{NO-BREAK SPACE}% of their completions, "
        "the others in 95\N{NO-BREAK SPACE}%."
    )
    assert sentences(rows[:1]) == [] and read_shortcut(words_folder / "nothing") == []
