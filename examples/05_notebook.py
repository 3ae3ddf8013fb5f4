"""Train on a list of dicts with a function as reward, look at the metrics, resume, evaluate.

As one would write it in a notebook, cell by cell. Run: python examples/05_notebook.py
"""

import tempfile

from PIL import Image, ImageDraw

import foveal


def circle(colour):
    image = Image.new("RGB", (112, 112), "white")
    ImageDraw.Draw(image).ellipse((30, 30, 82, 82), fill=colour)
    return image


rows = [
    {"question": "Which colour is the circle?", "images": [circle(colour)], "answer": colour}
    for colour in ("red", "blue", "green", "black")
]


def right(problem, text):
    """1 where the answer is named; any number will do, None where it cannot be said."""
    return float(problem.answer in text)


def brief(completions, **columns):
    """TRL's signature works too: a number for each completion, columns of the rows by name."""
    return [max(0.0, 1.0 - len(text) / 200) for text in completions]


run = foveal.train(
    data=rows,
    model="tiny",
    objective="papo",
    rewards=[right, foveal.reward(brief, weight=0.1)],
    validation=rows,
    callbacks=[lambda metrics: "stop" if metrics["step"] == 2 else None],
    out=tempfile.mkdtemp() + "/first",
    steps=3,
    sampling={"group_size": 4, "prompts_per_step": 2, "max_new_tokens": 16},
    optimizer={"lr": 1e-4},
)
print(run)  # stopped after two steps of three, with everything saved

run = foveal.resume(run.path, rewards=[right, brief])
print(run.metrics[["step", "reward/mean", "kl_prcp/mean", "policy/entropy"]])
print(run.completions[["step", "text", "reward"]].head(3))
print("held out:", run.evaluate(rows, k=4).accuracy)
print("page:", run.report())
