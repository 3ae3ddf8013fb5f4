"""Evaluation with a scripted engine: what is drawn, graded, judged, compared and kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from foveal.diagnosis.gate import gate
from foveal.evaluation.compare import compare, compare_runs
from foveal.evaluation.records import Evaluation, ProblemRecord
from foveal.evaluation.run import evaluate, swap_pictures
from foveal.keys import Key
from foveal.spec import FovealError
from foveal.types import CLEAN, Completion, Group, Problem, Sampling, ViewName

SHADES = {"red": 10, "blue": 200}


def problem(number: int, answer: str, *, size: int = 8, pictures: int = 1, **meta: str) -> Problem:
    images = tuple(Image.new("L", (size, size), SHADES.get(answer, 90)) for _ in range(pictures))
    return Problem(id=f"p{number}", question="<image>" * pictures, images=images, answer=answer, meta=meta)


PROBLEMS = [
    problem(i, ["red", "blue"][i % 2], family="count" if i < 4 else "relate", grade="high") for i in range(6)
]


class Engine:
    """Names the shade of the first picture, except in `blind` problems, which it answers "red"."""

    def __init__(self, *, blind: Sequence[str] = ()) -> None:
        self.blind = set(blind)
        self.calls: list[tuple[Sampling, Key, int]] = []

    def generate(
        self, problems: Sequence[Problem], *, sampling: Sampling, key: Key, view: ViewName = CLEAN
    ) -> list[tuple[Completion, ...]]:
        self.calls.append((sampling, key, len(problems)))
        return [tuple(self._draw(p, j) for j in range(sampling.group_size)) for p in problems]

    def _draw(self, problem: Problem, j: int) -> Completion:
        shade = problem.images[0].getpixel((0, 0))
        seen = next((name for name, value in SHADES.items() if value == shade), "?")
        text = "red" if problem.id in self.blind else seen
        if j % 2:
            text = "unsure"
        ids = tuple(range(len(text)))
        return Completion(
            token_ids=ids, sampled_logprobs=(0.0,) * len(ids), text=text, finish="length" if j % 2 else "stop"
        )

    def load_weights(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        raise AssertionError("evaluation never loads weights")

    def health(self) -> str:
        return "scripted"


class ExactGrader:
    def grade_many(self, pairs: list[tuple[Problem, tuple[Completion, ...]]]) -> list[Group]:
        groups = []
        for one, completions in pairs:
            right = tuple(c.text == one.answer for c in completions)
            rewards = tuple(float(r) for r in right)
            groups.append(Group(problem=one, completions=completions, rewards=rewards, correct=right))
        return groups


@dataclass(frozen=True)
class Said:
    kind: str


def judge(one: Problem, text: str) -> Said:
    if text == "unsure":
        return Said("format")
    return Said("correct" if text == one.answer else "perception")


def run(engine: Engine, **changes: object) -> Evaluation:
    settings: dict[str, object] = {
        "grader": ExactGrader(),
        "max_new_tokens": 9,
        "batch_size": 4,
        "key": (0,),
        "judge": judge,
        **changes,
    }
    return evaluate(engine, PROBLEMS, **settings)  # type: ignore[arg-type]


def test_greedy_evaluation_of_a_seeing_engine() -> None:
    engine = Engine()
    found = run(engine, name="sees")
    summary = found.summary
    assert found.accuracy.value == 1.0 and summary["accuracy_other_picture"]["value"] == 0.0
    assert summary["kinds"] == {"correct": 1.0} and summary["perception_error_fraction"]["value"] == 0.0
    assert summary["judge_agreement_fraction"] == 1.0 and summary["format"]["value"] == 1.0
    assert {name: row["problems"] for name, row in summary["by_family"].items()} == {"count": 4, "relate": 2}
    assert summary["by_grade"]["high"]["accuracy"]["count"] == 6
    assert all(sampling.temperature == 0 and sampling.group_size == 1 for sampling, _, _ in engine.calls)
    assert [count for _, _, count in engine.calls] == [4, 4, 2, 2]


def test_perception_errors_are_a_share_of_all_completions() -> None:
    found = run(Engine(blind=["p1", "p3"]))
    assert found.accuracy.value == pytest.approx(4 / 6)
    assert found.summary["perception_error_fraction"]["value"] == pytest.approx(2 / 6)
    assert found.summary["kinds"] == pytest.approx({"correct": 4 / 6, "perception": 2 / 6})


def test_avg_at_k_averages_completions_before_problems() -> None:
    found = run(Engine(), k=4, greedy=False)
    assert [record.accuracy for record in found.records] == [0.5] * 6
    assert found.summary["completions"] == 24
    assert found.summary["completion_truncated_fraction"] == 0.5
    assert found.summary["format"]["value"] == 0.5
    lengths = [len(name) for name in ("red", "blue")]
    assert found.summary["completion_length_mean"] == (sum(lengths) / 2 + len("unsure")) / 2


def test_a_format_reward_decides_the_format() -> None:
    class Formatting(ExactGrader):
        def grade_many(self, pairs: list[tuple[Problem, tuple[Completion, ...]]]) -> list[Group]:
            return [replace(g, breakdown={"format": (0.0,)}) for g in super().grade_many(pairs)]

    assert run(Engine(), grader=Formatting()).summary["format"]["value"] == 0.0


def test_without_judge_and_other_picture_nothing_is_claimed_of_them() -> None:
    engine = Engine()
    found = run(engine, judge=None, other_picture=False)
    assert found.summary["kinds"] == {} and found.summary["format"] is None
    assert found.summary["accuracy_other_picture"] is None and len(engine.calls) == 2


def test_progress_is_told_after_each_batch() -> None:
    told: list[tuple[int, int]] = []
    run(Engine(), progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 6), (6, 6)]


def test_batch_size_changes_nothing() -> None:
    assert run(Engine(blind=["p1"]), batch_size=1) == run(Engine(blind=["p1"]), batch_size=6)


def test_own_donor_function_is_used_and_may_find_none() -> None:
    found = run(Engine(), other_picture=lambda one, donors: one if one.id == "p0" else None)
    asked = [record.correct_other_picture for record in found.records]
    assert asked == [(True,), None, None, None, None, None]
    assert found.summary["accuracy_other_picture"]["count"] == 1


def test_swapped_pictures_have_another_answer_equal_number_and_own_size() -> None:
    own = problem(0, "red", size=8)
    two, same, other = problem(1, "blue", pictures=2), problem(2, " RED "), problem(3, "blue", size=20)
    for number in range(8):
        swapped = swap_pictures(own, [own, two, same, other], key=(number,))
        assert swapped is not None and swapped.question == own.question and swapped.answer == "red"
        assert swapped.images[0].size == (8, 8) and swapped.images[0].getpixel((0, 0)) == SHADES["blue"]
    assert own.images[0].getpixel((0, 0)) == SHADES["red"]


def test_no_donor_and_no_picture_give_none() -> None:
    own = problem(0, "red")
    assert swap_pictures(own, [own, problem(1, "red")], key=(0,)) is None
    assert swap_pictures(replace(own, images=()), [problem(1, "blue")], key=(0,)) is None


def test_donors_depend_on_the_key_alone() -> None:
    donors = [problem(i, f"answer {i}", size=8 + i) for i in range(30)]
    marked = [replace(d, images=(Image.new("L", (8, 8), i),)) for i, d in enumerate(donors)]

    def chosen(key: int) -> list[object]:
        swapped = [swap_pictures(p, marked, key=(key,)) for p in marked]
        return [s.images[0].getpixel((0, 0)) for s in swapped if s is not None]

    assert chosen(0) == chosen(0) != chosen(1)
    assert len(set(chosen(0))) > 10


def test_bad_settings_are_refused() -> None:
    with pytest.raises(FovealError, match="k = 4 with greedy"):
        run(Engine(), k=4)
    with pytest.raises(FovealError, match="temperature = 0 is greedy"):
        run(Engine(), greedy=False, temperature=0)
    with pytest.raises(FovealError, match="no problems to evaluate"):
        evaluate(Engine(), [], grader=ExactGrader(), max_new_tokens=4, key=(0,))


def test_saved_evaluation_reads_back_equal(tmp_path: Path) -> None:
    found = run(Engine(blind=["p1"]), name="grpo-0", method="grpo", seed=0)
    path = found.save(tmp_path / "evaluations" / "grpo-0")
    for given in (path, path.with_suffix(".jsonl"), path.with_suffix("")):
        assert Evaluation.load(given) == found
    assert json.loads(path.read_text())["summary"] == json.loads(json.dumps(found.summary))
    assert not list(path.parent.glob("*.part"))


def test_a_saved_evaluation_says_which_weights_and_data_it_is_of(tmp_path: Path) -> None:
    data = {"type": "auto", "path": "held_out.parquet", "limit": 8}
    found = run(Engine(), model="runs/papo/checkpoints/best/model", data=data)
    head = json.loads(found.save(tmp_path / "one").read_text())
    assert head["model"] == "runs/papo/checkpoints/best/model" and head["data"] == data
    assert Evaluation.load(tmp_path / "one") == found


def test_files_of_before_these_fields_are_read_all_the_same(tmp_path: Path) -> None:
    path = run(Engine()).save(tmp_path / "old")
    head = json.loads(path.read_text())
    path.write_text(json.dumps({key: head[key] for key in head if key not in ("model", "data")}))
    assert Evaluation.load(path).model == ""
    path.write_text(json.dumps({key: head[key] for key in head if key != "greedy"}))
    with pytest.raises(FovealError, match="not a saved evaluation"):
        Evaluation.load(path)


def test_versions_of_one_question_are_one_unit_of_every_interval() -> None:
    versions = [
        problem(n, "red" if n < 10 else "blue", problem_index=str(n // 5)) for n in range(20)
    ]  # four questions, five versions each; a blind engine has two of them right
    engine = Engine(blind=[one.id for one in versions])
    settings: dict[str, Any] = {"grader": ExactGrader(), "max_new_tokens": 9, "key": (0,)}
    found = evaluate(engine, versions, other_picture=False, **settings)
    alone = evaluate(engine, [replace(one, meta={}) for one in versions], other_picture=False, **settings)
    assert found.accuracy.count == 4 and alone.accuracy.count == 20
    assert found.accuracy.high - found.accuracy.low > 1.5 * (alone.accuracy.high - alone.accuracy.low)
    assert compare(found, found).differences["accuracy"].count == 4


def test_line_separators_in_a_completion_survive_saving(tmp_path: Path) -> None:
    found = run(Engine())
    odd = replace(found, records=(replace(found.records[0], texts=("a\u2028b\x85c\nd",)),))
    odd.save(tmp_path / "odd")
    assert Evaluation.load(tmp_path / "odd") == odd


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="does not exist"):
        Evaluation.load(tmp_path / "none.json")
    run(Engine()).save(tmp_path / "e")
    (tmp_path / "e.json").write_text('{"schema_version": 99}')
    with pytest.raises(FovealError, match="schema_version 99"):
        Evaluation.load(tmp_path / "e")
    (tmp_path / "e.json").write_text("[]")
    with pytest.raises(FovealError, match="not a saved evaluation"):
        Evaluation.load(tmp_path / "e")


def test_comparison_is_paired_by_id_and_counts_flows() -> None:
    before, after = run(Engine(blind=["p1", "p3", "p5"])), run(Engine(blind=["p3"]))
    shuffled = replace(after, records=tuple(reversed(after.records)))
    found = compare(before, shuffled)
    assert found.differences["accuracy"].value == pytest.approx(2 / 6)
    assert found.differences["perception_error_fraction"].value == pytest.approx(-2 / 6)
    assert found.flows == {"correct": {"correct": 3}, "perception": {"correct": 2, "perception": 1}}
    assert found == replace(compare(before, after), a=found.a, b=found.b)
    json.dumps(found.to_json(), allow_nan=False)


def test_evaluations_of_other_problems_or_samples_are_not_compared() -> None:
    whole = run(Engine())
    with pytest.raises(FovealError, match="1 only in the first, 0 only in the second"):
        compare(whole, replace(whole, records=whole.records[:-1]))
    with pytest.raises(FovealError, match="has a problem twice"):
        compare(whole, replace(whole, records=whole.records + whole.records[:1]))
    with pytest.raises(FovealError, match="drawn in other ways"):
        compare(whole, run(Engine(), k=2, greedy=False))


def runs() -> list[Evaluation]:
    blind = {"cold_start": ["p1", "p3", "p5"], "grpo": ["p1"], "papo": []}
    return [
        run(Engine(blind=blind[method]), method=method, seed=None if method == "cold_start" else seed)
        for method in blind
        for seed in ([0] if method == "cold_start" else [0, 1])
    ]


def test_compare_runs_has_every_pair_per_seed_and_over_seeds() -> None:
    found = compare_runs(runs())
    assert [(p["a"], p["b"]) for p in found["pairs"]] == [
        ("cold_start", "grpo"),
        ("cold_start", "papo"),
        ("grpo", "papo"),
    ]
    gain = found["pairs"][1]["accuracy"]
    assert [one["seed"] for one in gain["per_seed"]] == [0, 1]
    assert gain["over_seeds"]["value"] == gain["two_level"]["value"] == 0.5
    assert found["pairs"][1]["flows"]["perception"] == {"correct": 6}
    assert [m["method"] for m in found["methods"]] == ["cold_start", "grpo", "papo"]
    assert found["methods"][0]["accuracy"]["two_level"]["low"] is None
    assert found["methods"][1]["accuracy"]["two_level"]["value"] == pytest.approx(5 / 6)
    json.dumps(found, allow_nan=False)


def test_compare_runs_refuses_a_seed_twice_and_skips_unshared_seeds() -> None:
    start, first, second, third = runs()[0], runs()[1], runs()[2], runs()[4]
    with pytest.raises(FovealError, match="two evaluations of method 'grpo' with seed 0"):
        compare_runs([start, first, first])
    assert second.seed == 1 and first.seed == 0 and third.seed == 1
    pairs = compare_runs([start, first, third])["pairs"]
    assert [(p["a"], p["b"]) for p in pairs] == [("cold_start", "grpo"), ("cold_start", "papo")]


def record(number: int, right: bool, other: bool | None) -> ProblemRecord:
    blind = None if other is None else (other,)
    return ProblemRecord(
        id=f"p{number}",
        answer="",
        correct=(right,),
        texts=("",),
        lengths=(1,),
        truncated=(False,),
        correct_other_picture=blind,
    )


def evaluation(pairs: Sequence[tuple[bool, bool | None]]) -> Evaluation:
    records = tuple(record(i, right, other) for i, (right, other) in enumerate(pairs))
    return Evaluation(records=records, k=1, greedy=True, max_new_tokens=1)


def test_gate_lets_a_model_that_looks_pass() -> None:
    found = gate(evaluation([(True, False)] * 30 + [(False, False)] * 20))
    assert found.value == pytest.approx(0.6) and found.low > 0.4


def test_gate_refuses_a_model_that_does_not_look() -> None:
    same = [(True, True)] * 30 + [(False, False)] * 20 + [(True, False), (False, True)] * 5
    with pytest.raises(FovealError, match=r"does not look: 58\.3 % right .* 58\.3 % with another"):
        gate(evaluation(same))
    with pytest.raises(FovealError, match="above 70.0"):
        gate(evaluation([(True, False)] * 30 + [(False, False)] * 20), margin=0.7)


def test_gate_needs_other_pictures() -> None:
    with pytest.raises(FovealError, match="no problem was asked"):
        gate(evaluation([(True, None)] * 9))
