"""The commands as a user types them, on a model folder and data files made without this library."""

import json
import os
import pty
import re
import select
import shutil
import signal
import sys
import termios
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

import foveal.cli.train as train_command
from data_files import jsonl, parquet, png
from foveal.cli import main
from foveal.data import problems as problems_module
from foveal.train import assess
from foveal.train.assess import evaluation_config, evaluation_name, run_of
from foveal.train.stop import stop_signals
from run_cases import Command, world_table, write_toml

FEW = (
    "steps=2",
    "threads=1",
    "sampling.group_size=2",
    "sampling.prompts_per_step=2",
    "sampling.max_new_tokens=4",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Qwen2_5_VLProcessor saves it: the picture settings are in processor_config.json."""
    folder = tmp_path_factory.mktemp("standard") / "model"
    shutil.copytree(tiny_folder, folder)
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    pictures["image_processor_type"] = "Qwen2VLImageProcessor"
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Qwen2_5_VLProcessor", "image_processor": pictures})
    )
    return folder


def rows(count: int = 4) -> list[dict[str, Any]]:
    """Questions about one and about two pictures, of unequal size."""
    found = []
    for n in range(count):
        pictures = [{"bytes": png("red", (40 + 20 * n, 56)), "path": f"{n}.png"}]
        question = f"<image>How many circles are in picture {n}?"
        if n % 2:
            pictures.append({"bytes": png("blue", (60, 90)), "path": f"{n}b.png"})
            question = "Here is <image> and there <image>: which shows more?"
        found.append({"problem": question, "images": pictures, "answer": str(n)})
    return found


def line_rows(folder: Path) -> list[dict[str, Any]]:
    found = []
    for n, row in enumerate(rows()):
        names = []
        for i, picture in enumerate(row["images"]):
            (folder / f"{n}-{i}.png").write_bytes(picture["bytes"])
            names.append(f"{n}-{i}.png")
        found.append({**row, "images": names})
    return found


def train(*words: str) -> int:
    return main(["train", *words])


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().split("\n") if line]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_train_runs_end_to_end_on_own_model_and_data(
    kind: str, model: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint is a standard folder again: evaluated by its path, read by transformers alone."""
    data = (
        parquet(here / "data.parquet", rows())
        if kind == "parquet"
        else jsonl(here / "data.jsonl", line_rows(here))
    )
    assert train("--model", str(model), "--data", str(data), "--out", "run", *FEW) == 0
    said = capfd.readouterr()
    assert "4 prompts checked" in said.err and "step 2/2" in said.err
    assert "finished: 2 steps; the model is in run/checkpoints/step-000002/model" in said.out
    assert "Loading weights" not in said.err and "Writing model shards" not in said.err
    assert "Traceback" not in said.err and "Warning" not in said.err
    assert [line["step"] for line in metrics(here / "run")] == [1, 2]
    assert all(line["kl_prcp/mean"] != 0 for line in metrics(here / "run"))
    records = [
        json.loads(line) for line in (here / "run" / "completions.jsonl").read_text().split("\n") if line
    ]
    assert {len(PIL.Image.open(here / "run" / p).size) for r in records for p in r["pictures"]} == {2}

    from transformers import AutoModelForImageTextToText

    saved = AutoModelForImageTextToText.from_pretrained(here / "run/checkpoints/step-000002/model")
    first = AutoModelForImageTextToText.from_pretrained(model)
    moved = [not torch.equal(a, b) for a, b in zip(saved.parameters(), first.parameters(), strict=True)]
    assert all(moved)

    words = ["--problems", "3", "--out", "first", "sampling.max_new_tokens=4"]
    assert main(["evaluate", "--model", "run", "--data", str(data), *words]) == 0
    said = capfd.readouterr()
    assert "3 problems, 3 completions" in said.out and "accuracy_other_picture" in said.out
    assert json.loads((here / "first" / "run.json").read_text())["summary"]["problems"] == 3
    words = ["--problems", "3", "--against", "first/run", "sampling.max_new_tokens=4"]
    assert main(["evaluate", "--model", str(model), "--data", str(data), *words]) == 0

    assert main(["report", "run"]) == 0
    assert (here / "run" / "report.html").is_file()


def broken_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 8}))
    return folder


def unreadable(here: Path) -> Path:
    found = rows()
    found[2]["images"] = [{"bytes": b"no picture", "path": "x.png"}]
    return parquet(here / "d.parquet", found)


def one_mark_too_many(here: Path) -> Path:
    found = rows()
    found[1]["problem"] = "<image><image><image>which?"
    return parquet(here / "d.parquet", found)


def without_answers(here: Path) -> Path:
    return parquet(here / "d.parquet", [{"problem": r["problem"], "images": r["images"]} for r in rows()])


Mistake = Callable[[Path, Path], list[str]]

MISTAKES: dict[str, tuple[Mistake, str]] = {
    "no such model": (
        lambda here, model: ["--model", "/nowhere/model", "--data", str(parquet(here / "d.parquet", rows()))],
        r"no such model: '/nowhere/model' is not a folder; .*change --model",
    ),
    "model without pictures": (
        lambda here, model: [
            *("--model", str(broken_model(here / "text"))),
            *("--data", str(parquet(here / "d.parquet", rows()))),
        ],
        r"the model in .*text has no pictures: its model_type is 'qwen2'.*change --model",
    ),
    "no such data": (
        lambda here, model: ["--model", str(model), "--data", "gone.parquet"],
        r"data gone\.parquet does not exist",
    ),
    "missing column": (
        lambda here, model: ["--model", str(model), "--data", str(without_answers(here))],
        r"d\.parquet has no column for the answer .*columns: problem, images; .*answer_column",
    ),
    "unreadable picture": (
        lambda here, model: ["--model", str(model), "--data", str(unreadable(here))],
        r"1 of 4 rows cannot be used \(picture: 1\):\n.*d\.parquet.*row 2.*x\.png",
    ),
    "marks that do not match": (
        lambda here, model: ["--model", str(model), "--data", str(one_mark_too_many(here))],
        r"row 1.*the question has 3 <image> marks? but the row has 2 pictures",
    ),
    "prompt too long": (
        lambda here, model: [
            *("--model", str(model), "--data", str(parquet(here / "d.parquet", rows()))),
            "sampling.max_prompt_tokens=30",
        ],
        r"prompt has \d+ tokens, visual ones counted \(pictures: 40 x 56 pixels\).*max_prompt_tokens = 30",
    ),
    "unknown key": (
        lambda here, model: ["--model", str(model), "--data", "world", "sampling.group_sise=3"],
        r"unknown key 'sampling\.group_sise'; did you mean 'group_size'\?",
    ),
    "group of one": (
        lambda here, model: ["--model", str(model), "--data", "world", "sampling.group_size=1"],
        r"a group of one has nothing to be compared with",
    ),
    "no such config": (lambda here, model: ["quickstart_ppao"], r"did you mean quickstart_papo\?"),
    "nothing at all": (lambda here, model: [], r"no data; add a \[data\] table or pass --data"),
    "resume with a config": (
        lambda here, model: ["--resume", "run", "steps=4"],
        r"--resume takes the configuration of run; leave the config, .* out, or start a new run",
    ),
    "resume of nothing": (lambda here, model: ["--resume", "run"], r"no run in run: it has no config\.toml"),
    "no such device": (
        lambda here, model: ["--model", str(model), "--data", "world", "model.device=tpu9"],
        r"model\.device is 'tpu9', which is not usable.*'auto'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gives_one_message_and_status_two(
    name: str, model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = MISTAKES[name]
    status = train(*words(here, model))
    said = capsys.readouterr()
    assert status == 2
    assert re.search(message, said.err, re.DOTALL), said.err
    assert said.err.count("foveal: ") == 1 and "Traceback" not in said.err
    assert said.out == ""
    assert not (here / "runs").exists()


EVALUATE = ("--problems", "2", "sampling.max_new_tokens=2", "threads=1")


def evaluated(*words: str) -> int:
    return main(["evaluate", *words])


def test_evaluations_go_into_a_folder_and_never_over_one_another(model: Path, here: Path) -> None:
    for _ in range(2):
        assert evaluated("--model", str(model), "--data", "world", "--out", "e", *EVALUATE) == 0
    assert sorted(p.name for p in (here / "e").iterdir()) == [
        *("model-2.json", "model-2.jsonl", "model.json", "model.jsonl")
    ]


def asked(folder: Path) -> list[str]:
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line)["id"] for line in file.read_text().split("\n") if line]


def test_worlds_are_held_out_unless_an_override_sets_the_split(model: Path, here: Path) -> None:
    words = ["--model", str(model), *EVALUATE]
    assert evaluated("--data", "world", "--out", "a", *words) == 0
    assert evaluated("quickstart_grpo", "--out", "b", *words) == 0
    assert evaluated("--data", "world", "--out", "c", *words, "data.split=train") == 0
    assert all("/heldout/" in name for name in [*asked(here / "a"), *asked(here / "b")])
    assert all("/train/" in name for name in asked(here / "c"))


def test_evaluation_of_a_run_takes_its_settings(model: Path, here: Path) -> None:
    """From the run folder and from one of its checkpoints; held-out problems; overrides win."""
    table = {**world_table(model, steps=1), "seed": 5}
    table["model"] = {**table["model"], "dtype": "bfloat16"}
    table["data"] = {"type": "world", "families": ["panels"], "haze": 0.5, "seed": 3}
    table["sampling"] = {**table["sampling"], "max_new_tokens": 3}
    (here / "run" / "checkpoints" / "step-000001").mkdir(parents=True)
    write_toml(here / "run" / "config.toml", table)
    shutil.copytree(model, here / "run" / "checkpoints" / "step-000001" / "model")
    (here / "run" / "checkpoints" / "step-000001" / "state.json").write_text("{}")
    for path, name in (("run", "run"), ("run/checkpoints/step-000001", "run-step-000001")):
        config = evaluation_config(None, overrides=[], model=path, data=None, message=print)
        assert (config.model.dtype, config.sampling.max_new_tokens) == ("bfloat16", 3)
        assert config.data.model_dump()["families"] == ("panels",) and config.data.model_dump()["haze"] == 0.5
        assert config.data.model_dump()["split"] == "heldout"
        assert config.model.path.endswith("step-000001/model") and evaluation_name(path) == name
    config = evaluation_config(
        None, overrides=["sampling.max_new_tokens=9"], model="run", data="d.jsonl", message=print
    )
    assert config.sampling.max_new_tokens == 9 and config.data.model_dump()["path"] == "d.jsonl"
    assert run_of("tiny") is None and run_of(str(here)) is None


def test_own_columns_named_like_a_worlds_do_not_make_a_world(model: Path, here: Path) -> None:
    own = [{**row, "scene": "a street", "source": "world", "family": "counting"} for row in rows()]
    data = str(parquet(here / "d.parquet", own))
    assert evaluated("--model", str(model), "--data", data, "--out", "e", *EVALUATE) == 0
    assert json.loads((here / "e" / "model.json").read_text())["summary"]["kinds"] == {}


def test_evaluation_holds_the_pictures_of_a_batch_alone(
    model: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 pictures of 8 problems are decoded once as their own and once as another's, never all at a time."""
    decode = problems_module.decode
    decoded: list[weakref.ref[Any]] = []
    held: list[int] = []

    def counted(picture: Any, limits: Any) -> Any:
        image = decode(picture, limits)
        decoded.append(weakref.ref(image))
        held.append(sum(one() is not None for one in decoded))
        return image

    monkeypatch.setattr(problems_module, "decode", counted)
    monkeypatch.setattr(assess, "BATCH", 1)
    data = str(parquet(here / "d.parquet", rows(8)))
    assert evaluated("--model", str(model), "--data", data, *EVALUATE, "--problems", "8") == 0
    assert len(decoded) == 24
    assert max(held) <= 2 * (2 + 2)  # own and another's, of this problem and the last


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "file"], "--out file is a file; expected a folder"),
        (["--out", "file/e"], "--out: nothing can be written to the folder file/e"),
        (["--against", "gone"], "gone.json does not exist"),
        (["--samples", "-1"], "--samples is -1; expected 0"),
        (["--problems", "0"], "--problems is 0; expected at least 1"),
        (["--data", ""], "--data is empty"),
        (["--model", " "], "--model is empty"),
    ],
)
def test_mistakes_of_an_evaluation_are_told_before_a_model_is_read(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("taken")
    assert evaluated("--model", "/nowhere", "--data", "world", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "--noise", "-1"], "noise = -1.0"),
        (["show", "--haze", "5"], "haze = 5.0"),
        (["show", "--shortcut", "2"], "shortcut = 2.0"),
        (["show", "--n", "0"], "n must be at least 1"),
        (["show", "--n", "1", "--out", "."], "--out . is a folder"),
        (["show", "--n", "1", "--out", "file/sheet.png"], "--out file is a file; expected a folder"),
        (["coldstart", "--out", "file"], "--out file is a file; expected a folder"),
        (["coldstart", "--out", "."], "--out . holds other files and no model"),
    ],
)
def test_mistakes_of_worlds_are_told(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("taken")
    assert main(["worlds", *words]) == 2
    assert message in capsys.readouterr().err
    assert (here / "file").read_text() == "taken"


def test_run_folder_that_is_taken_is_refused_with_the_way_out(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(model), "--data", "world", "--out", "run", *FEW]
    assert train(*words) == 0
    capsys.readouterr()
    assert train(*words) == 2
    assert "run already holds a run; go on with `foveal train --resume run`" in capsys.readouterr().err


def test_run_without_a_name_never_writes_into_another(model: Path, here: Path) -> None:
    for _ in range(2):
        assert train("--model", str(model), "--data", "world", *FEW, "steps=1") == 0
    assert sorted(p.name for p in (here / "runs").iterdir()) == ["papo", "papo-2"]


def test_overrides_stand_before_between_and_behind_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["quickstart_papo", "steps=7", "seed=5"],
        ["steps=7", "seed=5"],
    ):
        assert main(["config", *words]) == 0
        said = capsys.readouterr().out
        assert "seed = 5\nsteps = 7\n" in said
    place = ["--model", "/nowhere"]
    for words in (
        ["quickstart_papo", *place, "stepz=7"],
        [*place, "quickstart_papo", "stepz=7"],
        ["quickstart_papo", "stepz=7", *place],
    ):
        assert train(*words) == 2
        assert "unknown key 'stepz'; did you mean 'steps'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        train("quickstart_papo", "--modle", "x")
    assert caught.value.code == 2


def test_printed_config_is_a_config(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "quickstart_cppo"]) == 0
    text = capsys.readouterr().out
    (here / "again.toml").write_text(text)
    assert main(["config", "again.toml"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    "words",
    [
        [],
        *[[c] for c in ("quickstart", "train", "sweep", "evaluate", "report", "worlds", "config")],
        ["worlds", "show"],
    ],
    ids=lambda words: " ".join(words) or "foveal",
)
def test_help_is_there_for_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    assert f"usage: {' '.join(['foveal', *words])}" in capsys.readouterr().out


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "examples:" in capsys.readouterr().out


def test_worlds_show_writes_a_sheet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "show", "--out", "sheet.png", "--n", "1", "--families", "counting"]) == 0
    assert PIL.Image.open(here / "sheet.png").width > 50
    assert main(["worlds", "show", "--families", "countign"]) == 2
    assert "no such family: 'countign'" in capsys.readouterr().err


def test_report_of_nothing_is_a_mistake(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "gone"]) == 2
    assert "gone is neither a run (metrics.jsonl) nor a quickstart" in capsys.readouterr().err


class Terminal:
    """The other end of a terminal."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.name = os.ttyname(slave)
        self.slave = slave
        termios.tcsetwinsize(slave, (25, 80))
        self.before = termios.tcgetattr(slave)
        self.text = ""

    def read_until(self, wanted: str | None, process: Any, *, limit: float = 60) -> None:
        """Until a text appears; with none, until the process has ended."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if select.select([self.master], [], [], 0.02)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            elif wanted is None and not process.is_alive():
                return
            if wanted is not None and wanted in self.text:
                return
        raise TimeoutError(f"no {wanted!r} in {self.text[-2000:]!r}")

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)


def test_progress_bar_appears_and_the_terminal_is_given_back(model: Path, here: Path) -> None:
    config = write_toml(here / "world.toml", world_table(model, steps=3))
    terminal = Terminal()
    going = Command("train", str(config), "--out", "run", folder=here, terminal=terminal.name)
    terminal.read_until(None, going.process)
    assert going.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text)
    assert "training: papo on" in plain and "validation after step 3" in plain
    assert re.search(r"step 3/3 ━+ reward \d\.\d+ accuracy 0\.\d+ kl_prcp \d+\.\d+ left \d:\d\d:\d\d", plain)
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l") > 0
    assert "Loading weights" not in plain and "Writing model shards" not in plain


def test_ctrl_c_saves_and_leaves_the_terminal_sane(model: Path, here: Path) -> None:
    config = write_toml(here / "world.toml", world_table(model, steps=500))
    terminal = Terminal()
    going = Command("train", str(config), "--out", "run", folder=here, terminal=terminal.name)
    terminal.read_until("2/500", going.process)
    terminal.type(b"\x03")
    terminal.read_until(None, going.process)
    assert going.wait() == 130
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text).replace("\r\n", " ")
    assert "stopping after this step; once more to stop at once" in plain
    assert "go on with: foveal train --resume run" in plain
    assert "Traceback" not in plain
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_second_ctrl_c_stops_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def interrupted(*given: Any, **more: Any) -> int:
        with stop_signals(told.append) as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.asked and "once more to stop at once" in told[0]
            signal.raise_signal(signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(train_command, "run", interrupted)
    assert train() == 130
    assert "stopped at once; a run goes on from its last checkpoint with --resume" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_report_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("foveal.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(tmp_path)]) == 2
    assert "pip install 'foveal[report]'" in capsys.readouterr().err
