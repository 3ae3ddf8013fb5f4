"""Where errors and text leave: one message, no traceback, nothing in it that steers a terminal."""

import errno
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn

from foveal.boundary import door, ending, is_foreign, require_name, require_one_process
from foveal.cli import main
from foveal.console import Console
from foveal.spec import FovealError
from foveal.text import STEERING, PrintableStream, printable

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x1b]52;c;aGk=\x07\x9b31m\x85\u202egpj.exe\u2066\udc80\rb"
SHOWN = r"a\u001b[2J\u001b]0;title\u0007\u001b]52;c;aGk=\u0007\u009b31m\u0085\u202egpj.exe\u2066\udc80\u000db"


def test_text_that_steers_a_terminal_is_shown_in_the_form_of_json_and_toml() -> None:
    assert printable(HOSTILE) == SHOWN
    assert json.loads(f'"{SHOWN}"') == HOSTILE
    tame = HOSTILE.replace("\udc80", "")
    assert tomllib.loads(f'x = "{printable(tame)}"')["x"] == tame
    plain = "a\tb\nc é 中 ° √ 🙂 नमस्ते שלום"
    assert printable(plain) == plain
    assert printable("one\r\ntwo") == "one\ntwo"


def test_no_control_character_of_any_plane_is_printed() -> None:
    import unicodedata

    for code in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(code))
        if kind in ("Cc", "Cs", "Zl", "Zp") and chr(code) not in "\t\n":
            assert STEERING.match(chr(code)), hex(code)
        if unicodedata.bidirectional(chr(code)) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI"):
            assert STEERING.match(chr(code)), hex(code)


def test_every_error_of_ours_is_printable_and_of_readable_length() -> None:
    assert str(FovealError(f"{HOSTILE}: no such file")) == f"{SHOWN}: no such file"
    long = str(FovealError("cell " + "A" * 2_000_000 + "; make it smaller"))
    assert len(long) < 7000 and long.startswith("cell A") and long.endswith("make it smaller")


def test_a_stream_shows_what_any_library_prints() -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = PrintableStream(raw)
    print(HOSTILE, "中", file=stream)  # type: ignore[call-overload]
    stream.write("\r 10 %")
    stream.write("\x1b[A")
    raw.flush()
    assert raw.buffer.getvalue().decode() == SHOWN + " \\u4e2d\n\r 10 %\x1b[A"  # type: ignore[attr-defined]


def through_a_terminal(write: "object") -> str:
    """What a function writes to a terminal of its own as standard error."""
    parent, child = pty.openpty()
    before, sys.stderr = sys.stderr, os.fdopen(child, "w", encoding="utf-8")
    try:
        write()  # type: ignore[operator]
    finally:
        sys.stderr.close()
        sys.stderr = before
    found = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        found += part
    os.close(parent)
    return found.decode()


def test_a_console_lets_its_own_codes_through_and_none_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")

    def write() -> None:
        from rich.table import Table

        sys.stderr = PrintableStream(sys.stderr)  # type: ignore[assignment]
        console = Console(stderr=True)
        assert console.is_terminal
        console.say(f"{HOSTILE} [red]x[/red] [link=http://a.b]y[/link] :smile:")
        with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
            progress.add_task(f"bar {HOSTILE}")
        table = Table(title=f"title {HOSTILE}")
        table.add_column(f"head {HOSTILE}")
        table.add_row(f"cell {HOSTILE}")
        console.print(table)
        sys.stderr = sys.stderr.stream  # type: ignore[attr-defined]

    found = through_a_terminal(write)
    assert "[red]x[/red] [link=http://a.b]y[/link] :smile:" in found
    assert "\x1b[?25l" in found and "\x1b[?25h" in found  # rich hides the cursor and shows it again
    for word in ("[2J", "]0;title", "]52;c;aGk=", "31m", "gpj.exe"):
        assert word in found
        assert not re.search(rf"[\x1b\x9b]{re.escape(word)}", found)
    assert not re.search("[\x07\x80-\x9f\u202e\u2066]", found)


def test_commands_show_names_that_would_steer_a_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = "x\x1b[2J\x1b]52;c;aGk\x07\u202e"
    row = {"id": bad, "question": f"{bad} <image>", "answer": "1", "image": f"{bad}.png"}
    (tmp_path / f"{bad}.jsonl").write_text(json.dumps(row) + "\n")
    for words in (
        ["config", bad],
        ["config", f"{bad}={bad}"],
        ["config", f"objective.type={bad}"],
        ["train", "--model", bad, "--data", "world"],
        ["train", "--model", "tiny", "--data", f"{bad}.jsonl", "threads=1"],
        ["train", "--model", "tiny", "--data", bad, "threads=1"],
        ["evaluate", "--model", "tiny", "--data", f"{bad}.jsonl", "threads=1"],
        ["report", bad],
        ["train", "--resume", bad],
        ["sweep", bad, "--dry-run"],
    ):
        assert main(words) == 2, words
        said = capsys.readouterr()
        assert "x\\u001b[2J" in said.err or "x\\x1b[2J" in said.err, words
        assert not STEERING.search(said.err + said.out), words
    assert main(["config", "quickstart_papo", f"data.prompt_suffix='{bad[0:1]}\u202e'"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["data"]["prompt_suffix"] == "x\u202e"


def test_what_libraries_print_in_a_command_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import foveal.cli as cli

    def warn(**options: object) -> int:
        sys.stderr.write(warnings.formatwarning(RuntimeWarning(HOSTILE), RuntimeWarning, "file", 1))
        logging.StreamHandler().handle(logging.makeLogRecord({"msg": HOSTILE}))
        return 0

    cli.warn_for_test = warn  # type: ignore[attr-defined]
    try:
        parser = cli.build_parser()
        for action in parser._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
            action.set_defaults(run="foveal.cli:warn_for_test")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "build_parser", lambda: parser)
            assert main(["report", str(tmp_path)]) == 0
    finally:
        del cli.warn_for_test  # type: ignore[attr-defined]
    said = capsys.readouterr().err
    assert said.count(SHOWN) == 2 and not STEERING.search(said)


def test_a_door_turns_errors_of_libraries_and_lets_our_own_mistakes_through() -> None:
    with pytest.raises(FovealError, match=r"^the file x: Expecting value.*; mend it$") as caught:
        with door("the file x", "mend it"):
            json.loads("")
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)
    with pytest.raises(FovealError, match="No such file or directory"):
        with door("the file x", "mend it"):
            open("/nowhere/at/all")
    with pytest.raises(FovealError, match="as it is"):
        with door("the file x", "mend it"):
            raise FovealError("as it is")
    with pytest.raises(KeyboardInterrupt):
        with door("the file x", "mend it"):
            raise KeyboardInterrupt


def raised_in_our_code(kind: type[Exception]) -> Exception:
    """An error as a line of this library's own would raise it."""
    code = compile("raise kind('x')", str(Path(main.__code__.co_filename)), "exec")
    try:
        exec(code, {"kind": kind})
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("kind", [TypeError, AttributeError, KeyError, NameError, IndexError, RuntimeError])
def test_a_mistake_of_ours_is_no_message_about_the_input(kind: type[Exception]) -> None:
    error = raised_in_our_code(kind)
    assert not is_foreign(error)
    assert ending(error) is None  # raised as it is, since tests set FOVEAL_TRACEBACK
    assert is_foreign(raised_in_our_code(OSError))


def test_a_mistake_of_ours_ends_with_1_and_its_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOVEAL_TRACEBACK")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(*_: object, **__: object) -> None:
        raise raised_in_our_code(TypeError).with_traceback(None) from KeyError(HOSTILE)

    monkeypatch.setattr("foveal.config.load", broken)
    monkeypatch.setattr("foveal.boundary.plugin_failure", lambda error: None)
    assert main(["config", "quickstart_papo"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("foveal: TypeError: x: this is a mistake in foveal, not in what you gave it")
    assert "Traceback" not in said.err
    (file,) = tmp_path.glob("foveal-crash-*.txt")
    assert str(file) in said.err
    text = file.read_text()
    assert "Traceback" in text and "TypeError: x" in text and "command: [" in text
    assert not STEERING.search(text)
    monkeypatch.setenv("FOVEAL_TRACEBACK", "1")
    with pytest.raises(TypeError):
        main(["config", "quickstart_papo"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left on device; check"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied; check"),
        (MemoryError(), "out of memory: MemoryError; lower optimizer.micro_batch_tokens"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: Default"),
    ],
)
def test_a_full_disk_or_memory_is_no_mistake_of_ours(error: Exception, told: str) -> None:
    end = ending(error)
    assert end is not None and end.status == 2 and str(end.message).startswith(told)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a\0b", "cannot hold a NUL character"),
        ("a" * 5000, "the name is 5000 bytes long, its longest part 5000"),
        ("é" * 200, "the name is 400 bytes long, its longest part 400"),
        ("a/" * 3000, "the name is 6000 bytes long, its longest part 1"),
        ("\ud800" * 300, "bytes long"),
    ],
    ids=["nul", "long", "letters", "path", "surrogates"],
)
def test_a_name_that_no_file_can_have_is_refused(name: str, told: str) -> None:
    with pytest.raises(FovealError, match=told) as caught:
        require_name(name, where="--data")
    assert len(str(caught.value)) < 400 and str(caught.value).startswith("--data '")
    require_name("a" * 255 + "/" + "é" * 127, where="--data")


@pytest.mark.parametrize("name", ["x" * 5000, "x\0y", "d/" * 3000], ids=["long", "nul", "deep"])
@pytest.mark.parametrize(
    "words",
    [
        ["config", "NAME"],
        ["train", "NAME"],
        ["train", "--model", "NAME", "--data", "world"],
        ["train", "--model", "tiny", "--data", "NAME"],
        ["train", "--model", "tiny", "--data", "world", "--out", "NAME"],
        ["train", "--resume", "NAME"],
        ["train", "--data", "world", "model.path=NAME"],
        ["train", "--model", "tiny", "data.path=NAME"],
        ["evaluate", "--model", "NAME", "--data", "world"],
        ["evaluate", "--model", "tiny", "--data", "NAME"],
        ["evaluate", "--model", "tiny", "--data", "world", "--out", "NAME"],
        ["evaluate", "--model", "tiny", "--data", "world", "--against", "NAME"],
        ["sweep", "NAME", "--dry-run"],
        ["sweep", "sweep_gamma", "--out", "NAME", "--dry-run"],
        ["report", "NAME"],
        ["quickstart", "--out", "NAME"],
        ["quickstart", "--model", "NAME"],
        ["worlds", "show", "--out", "NAME"],
        ["worlds", "coldstart", "--out", "NAME"],
    ],
    ids=" ".join,
)
def test_commands_refuse_names_that_no_file_can_have(
    words: list[str],
    name: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("NAME", name) for word in words]) == 2
    said = capsys.readouterr().err
    assert "bytes long" in said or "NUL" in said
    assert len(said) < 1000 and not list(tmp_path.iterdir())


def test_torchrun_is_refused_by_the_first_process_and_quietly_by_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        for words in (
            ["train", "quickstart_papo"],
            ["train", "--resume", "x"],
            ["evaluate", "--model", "tiny", "--data", "world"],
            ["sweep", "sweep_gamma"],
            ["quickstart"],
        ):
            assert main(words) == 2
            said = capsys.readouterr()
            wanted = "foveal: started as one of 2 processes (WORLD_SIZE = 2" if rank == "0" else ""
            assert said.out == "" and said.err.startswith(wanted) and bool(said.err) == bool(wanted)
    assert not list(tmp_path.iterdir())
    assert main(["config", "quickstart_papo"]) == 0
    for fine in ({}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "8"}, {"WORLD_SIZE": "x", "RANK": "0"}):
        require_one_process(fine)


def test_torchrun_is_refused_from_python_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.config import load
    from foveal.train import loop

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FovealError):
        loop.start(load(None, data="world"), tmp_path / "run")
    with pytest.raises(FovealError):
        loop.resume(tmp_path / "run", config=load(None, data="world"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_itself_starts_no_run(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "foveal", "train"]
    done = subprocess.run(
        [sys.executable, *words, "quickstart_papo", "--out", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("foveal: started as one of 2 processes") == 1
    assert not (tmp_path / "run").exists()


def test_a_plugin_that_leaves_the_process_is_told_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quits.py").write_text(
        "import sys\nfrom foveal.objectives.extension import Extension\n"
        "class Quits(Extension):\n    def sample_views(self, step, *, steps):\n        sys.exit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["config", "quickstart_papo", "objective=quits:Quits"]) == 2
    assert "a class of your own failed: SystemExit: 0" in capsys.readouterr().err
