"""At grade high and without a shortcut, the words of a question say nothing about its answer."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from foveal.worlds import FAMILIES, WorldSettings, make_problem

TRAIN, TEST = 6000, 8000
"""With 8000 questions the standard error of an accuracy near 1/4 is half a point."""


def naive_bayes(train, test):
    """Predictions from the words of each question, answers smoothed by one."""
    vocabulary = {w: i for i, w in enumerate(sorted({w for words, _ in train for w in words}))}
    answers = sorted({answer for _, answer in train})
    seen = np.ones((len(answers), len(vocabulary)))
    counts = np.zeros(len(answers))
    for words, answer in train:
        row = answers.index(answer)
        counts[row] += 1
        seen[row, [vocabulary[w] for w in words]] += 1
    present = np.log(seen / (counts[:, None] + 2))
    absent = np.log1p(-seen / (counts[:, None] + 2))
    prior = np.log(counts) + absent.sum(1)
    predicted = []
    for words, _ in test:
        columns = [vocabulary[w] for w in words if w in vocabulary]
        predicted.append(answers[int(np.argmax(prior + (present - absent)[:, columns].sum(1)))])
    return predicted


def memory(train, test):
    """Predictions from the commonest answer to exactly the same words."""
    counts = defaultdict(Counter)
    for words, answer in train:
        counts[frozenset(words)][answer] += 1
    common = Counter(answer for _, answer in train).most_common(1)[0][0]
    return [
        counts[frozenset(words)].most_common(1)[0][0] if frozenset(words) in counts else common
        for words, _ in test
    ]


def gains(family, **settings):
    """Accuracy above always giving the commonest answer of the template, for each classifier, in points.

    The commonest answer is that of the tested questions, so that chance does not lower the baseline.
    """
    by_template = defaultdict(list)
    for i in range(TRAIN + TEST):
        p = make_problem(
            family, split="train", seed=9, index=i, settings=WorldSettings(**settings), render=False
        )
        by_template[p.meta["template"]].append((i, set(p.question.split()), p.answer))
    hits = Counter()
    for items in by_template.values():
        train = [(words, answer) for i, words, answer in items if i < TRAIN]
        test = [(words, answer) for i, words, answer in items if i >= TRAIN]
        hits["commonest"] += Counter(answer for _, answer in test).most_common(1)[0][1]
        for classifier in (naive_bayes, memory):
            right = sum(p == a for p, (_, a) in zip(classifier(train, test), test, strict=True))
            hits[classifier.__name__] += right
    return {name: 100 * (hits[name] - hits["commonest"]) / TEST for name in ("naive_bayes", "memory")}


@pytest.mark.parametrize("family", FAMILIES)
def test_words_alone_are_within_two_points_of_the_commonest_answer(family):
    found = gains(family)
    assert max(found.values()) < 2.0, found


def test_the_classifier_finds_a_shortcut_that_is_there():
    found = gains("counting", shortcut_word="biased", shortcut=0.3)
    assert found["naive_bayes"] > 10, found
