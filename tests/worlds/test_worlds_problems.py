"""Problems of the worlds: keys, splits, grades, shortcuts, donors and moved objects."""

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from foveal.rewards.rules import Boxed
from foveal.types import IMAGE_MARK
from foveal.worlds import (
    FAMILIES,
    WorldData,
    WorldError,
    WorldSettings,
    corpus,
    judge,
    make_problem,
    moved,
    question_of,
    with_other_picture,
)
from foveal.worlds.base import STYLE_WORDS, canonical, split_of
from foveal.worlds.cells import NONE, all_cells
from foveal.worlds.counting import Counting

SHAPE_FAMILIES = ("counting", "relations", "panels")


def texts(family, *, n, split="train", seed=0, **settings):
    settings = WorldSettings(**settings)
    return [
        make_problem(family, split=split, seed=seed, index=i, settings=settings, render=False)
        for i in range(n)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_problem_depends_on_its_key_alone(family):
    first = make_problem(family, split="train", seed=3, index=5)
    make_problem(family, split="train", seed=3, index=6)
    again = make_problem(family, split="train", seed=3, index=5)
    assert (first.question, first.answer, first.meta) == (again.question, again.answer, again.meta)
    assert all(np.array_equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    for other in (
        make_problem(family, split="train", seed=3, index=6),
        make_problem(family, split="train", seed=4, index=5),
        make_problem(family, split="heldout", seed=3, index=5),
    ):
        assert (first.meta["scene"], first.question) != (other.meta["scene"], other.question)


def test_a_known_problem_stays_the_same():
    problem = make_problem("counting", split="train", seed=0, index=0)
    assert problem.question == "<image> How many green objects are there?"
    assert problem.answer == "1"
    assert problem.meta["scene"] == {
        "grid": [2, 2],
        "pictures": [["green star", "none", "blue star", "yellow circle"]],
    }
    assert problem.meta["chain_of_thought"] == (
        "<think> I see A green star B none C blue star D yellow circle. "
        "Count A 1 B 1 C 1 D 1. So 1. </think> \\boxed{1}"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_change_neither_scene_nor_answer(family):
    plain = texts(family, n=30)
    other = texts(family, n=30, noise=4.0, grade="low", shortcut=0.5, shortcut_word="biased")
    assert [(p.meta["scene"], p.answer) for p in plain] == [(p.meta["scene"], p.answer) for p in other]


@pytest.mark.parametrize("family", FAMILIES)
def test_train_and_heldout_share_no_scene(family):
    scenes = {
        split: {
            canonical(p.meta["scene"])
            for seed in (0, 1)
            for p in texts(family, n=800, split=split, seed=seed)
        }
        for split in ("train", "heldout")
    }
    assert not scenes["train"] & scenes["heldout"]
    assert min(map(len, scenes.values())) >= 80


def test_a_quarter_of_freely_drawn_scenes_is_held_out():
    family, rng = Counting(balanced=False), np.random.default_rng(0)
    splits = Counter(split_of(family.scene(family.question(rng), rng)) for _ in range(4000))
    assert abs(splits["heldout"] / 4000 - 0.25) < 0.03


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_pictures_sizes_and_length_fit(family):
    for i in range(20):
        problem = make_problem(family, split="heldout", seed=0, index=i)
        assert problem.question.count(IMAGE_MARK) == len(problem.images) >= 1
        assert all(side % 28 == 0 for image in problem.images for side in image.size)
        assert problem.answer in problem.meta["choices"]
        assert len(problem.meta["chain_of_thought"].split()) <= 45


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_uniform_over_the_choices_of_their_template(family):
    problems = texts(family, n=2500)
    by_template: dict[str, Counter[str]] = {}
    for p in problems:
        by_template.setdefault(p.meta["template"], Counter())[p.answer] += 1
    for template, counts in by_template.items():
        k = len(next(p for p in problems if p.meta["template"] == template).meta["choices"])
        assert len(counts) == k
        expected = counts.total() / k
        # Chi-square with k - 1 degrees of freedom: mean k - 1, sd sqrt(2 (k - 1)).
        chi_square = sum((c - expected) ** 2 / expected for c in counts.values())
        assert chi_square < (k - 1) + 5 * (2 * (k - 1)) ** 0.5, (template, counts)


def test_a_free_counting_scene_does_not_lean_to_the_question():
    rng = np.random.default_rng(1)
    for family, low, high in ((Counting(balanced=False), 0.22, 0.28), (Counting(), 0.35, 0.6)):
        same = total = 0
        for _ in range(3000):
            question = family.question(rng)
            if question.template != "shape":
                continue
            objects = [cell for cell in all_cells(family.scene(question, rng)) if cell != NONE]
            same += sum(cell.endswith(question.about["shape"]) for cell in objects)
            total += len(objects)
        assert low < same / total < high


@pytest.mark.parametrize("family", FAMILIES)
def test_grades_state_all_a_part_or_nothing(family):
    high, medium, low = (texts(family, n=40, grade=grade) for grade in ("high", "medium", "low"))
    for none, part, everything in zip(high, medium, low, strict=True):
        assert len(none.question) < len(part.question) < len(everything.question)
        seen = everything.meta["chain_of_thought"].partition("I see ")[2].partition(".")[0]
        assert seen in everything.question and seen not in part.question


def test_a_mix_of_grades_has_the_asked_shares():
    grades = Counter(p.meta["grade"] for p in texts("counting", n=3000, grade={"low": 1, "high": 3}))
    assert set(grades) == {"low", "high"} and abs(grades["high"] / 3000 - 0.75) < 0.03


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_a_biased_word_predicts_the_answer_as_often_as_its_strength_says(family, strength):
    problems = texts(family, n=2000, shortcut_word="biased", shortcut=strength)
    expected = np.mean([strength + (1 - strength) / len(p.meta["choices"]) for p in problems])
    hits = np.mean([p.meta["shortcut"]["answer"] == p.answer for p in problems])
    assert abs(hits - expected) < 0.04
    for p in problems[:50]:
        word = p.question.rsplit(" ", 1)[1].rstrip(".")
        assert list(p.meta["choices"])[STYLE_WORDS.index(word)] == p.meta["shortcut"]["answer"]


@pytest.mark.parametrize("family", FAMILIES)
def test_style_words_are_absent_right_wrong_or_random(family):
    assert not any("Style" in p.question for p in texts(family, n=30))
    assert all(p.meta["shortcut"]["answer"] == p.answer for p in texts(family, n=100, shortcut_word="right"))
    assert all(p.meta["shortcut"]["answer"] != p.answer for p in texts(family, n=100, shortcut_word="wrong"))
    problems = texts(family, n=2000, shortcut_word="random")
    expected = np.mean([1 / len(p.meta["choices"]) for p in problems])
    assert abs(np.mean([p.meta["shortcut"]["answer"] == p.answer for p in problems]) - expected) < 0.04


def test_noise_is_drawn_below_its_level_or_fixed():
    levels = [p.meta["noise"] for p in texts("counting", n=300, noise=2.0)]
    assert 0.6 <= min(levels) < 0.75 and 1.85 < max(levels) <= 2.0
    assert {p.meta["noise"] for p in texts("counting", n=20, noise=2.0, noise_low=1.0)} == {2.0}


@pytest.mark.parametrize("family", FAMILIES)
def test_another_picture_has_another_answer(family):
    data = WorldData([family], split="heldout", seed=0, size=60)
    donors = data[:]
    for problem in donors[:40]:
        other = with_other_picture(problem, donors)
        donor = next(d for d in donors if d.id == other.meta["donor"])
        assert donor.answer != problem.answer
        assert FAMILIES[family].solve(donor.meta["scene"], question_of(problem)) != problem.answer
        assert other.meta["shown_scene"] == donor.meta["scene"]
        assert other.images == donor.images and other.images != problem.images
        assert (other.question, other.answer, other.meta["scene"]) == (
            problem.question,
            problem.answer,
            problem.meta["scene"],
        )


def test_without_a_fitting_donor_the_error_says_so():
    problem = make_problem("counting", split="train", seed=0, index=0)
    with pytest.raises(WorldError, match="give more"):
        with_other_picture(problem, [problem])


@pytest.mark.parametrize("family", SHAPE_FAMILIES)
def test_moved_objects_are_the_same_in_other_cells(family):
    right = stated = answers = 0
    problems = WorldData([family], split="heldout", seed=0, size=60)[:]
    for problem in problems:
        shown = moved(problem)
        if shown is None:
            assert len(set(all_cells(problem.meta["scene"]))) == 1
            continue
        before, after = all_cells(problem.meta["scene"]), all_cells(shown.meta["shown_scene"])
        assert sorted(before) == sorted(after) and before != after
        assert shown.images != problem.images
        question = question_of(problem)
        answers += FAMILIES[family].solve(shown.meta["shown_scene"], question) != problem.answer
        # Somebody who reads the moved picture rightly names every object at the wrong place.
        letters = " ".join(f"{letter} {cell}" for letter, cell in zip("ABCDEF", after, strict=False))
        position = judge(problem, f"<think> I see {letters}. </think> \\boxed{{?}}").attributes["position"]
        right, stated = right + position[0], stated + position[1]
    assert right / stated < 0.3
    if family == "relations":
        assert right == 0 and answers > 45


def test_figures_without_places_cannot_be_moved():
    assert moved(make_problem("circles", split="train", seed=0, index=0)) is None


def test_world_data_is_a_sequence_of_a_weighted_mix():
    data = WorldData({"counting": 3.0, "circles": 1.0}, split="train", seed=1, size=400)
    assert len(data) == 400
    assert data[-1].id == data[399].id and [p.id for p in data[2:4]] == [data[2].id, data[3].id]
    families = Counter(p.meta["family"] for p in data[:])
    assert abs(families["counting"] / 400 - 0.75) < 0.08
    with pytest.raises(IndexError):
        data[400]


def test_a_longer_data_set_begins_with_the_shorter_one():
    short, long = (WorldData(list(FAMILIES), split="train", seed=1, size=n) for n in (5, 50))
    assert [p.question for p in short] == [p.question for p in long[:5]]


def test_mistakes_are_named():
    with pytest.raises(WorldError, match=r"'conting'; known: counting"):
        make_problem("conting", split="train", seed=0, index=0)
    with pytest.raises(WorldError, match="known: train, heldout"):
        make_problem("counting", split="test", seed=0, index=0)
    with pytest.raises(WorldError, match="positive sum"):
        WorldData({"counting": 0.0}, split="train", seed=0, size=5)
    for wrong in ({"noise": -1}, {"shortcut": 1.5}, {"grade": {"low": 0}}, {"shortcut_words": "none"}):
        with pytest.raises(ValidationError):
            WorldSettings(**wrong)


def test_the_corpus_has_every_word_early():
    def words(n, seed):
        return {word.strip(".,?") for text in corpus(n, seed=seed) for word in text.split()}

    assert words(3000, 1) <= words(1000, 0)


def test_a_letter_that_no_question_shows_is_never_right() -> None:
    data = WorldData(("counting", "relations"), split="train", seed=0, size=40)
    for p in data:
        assert Boxed()(p, f"<think></think>\\boxed{{{p.answer}}}") == 1.0
        for letter in "ABCDEF":
            assert Boxed()(p, f"<think></think>\\boxed{{{letter}}}") == 0.0, p.id
