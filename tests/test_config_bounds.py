"""Values that a config cannot mean, and files without end: a message and 2, at once, and no folder."""

import os
import time
from pathlib import Path

import pytest

from foveal.cli import main
from foveal.config import load
from foveal.spec import ConfigError, FovealError
from foveal.tables import MOST_DEPTH, MOST_EXTENDS
from foveal.train.setup import resolve_device

SMALL = ["threads=1", "steps=1", "sampling.max_new_tokens=2", "sampling.group_size=2"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says that ends with 2."""
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("foveal: ") and "Traceback" not in said.err and len(said.err) < 2000
    return said.err


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("steps=true", "steps = True: Input should be a valid integer"),
        ('steps="5"', "steps = '5': Input should be a valid integer"),
        ("steps=1.5", "steps = 1.5"),
        ("optimizer.lr=true", "optimizer.lr = True: Input should be a valid number"),
        ('optimizer.lr="1e-6"', "optimizer.lr = '1e-6': Input should be a valid number"),
        ("optimizer.skip_idle=1", "optimizer.skip_idle = 1: Input should be a valid boolean"),
        ("guard.warmup=true", "guard.warmup = True: Input should be a valid integer"),
        ("optimizer.betas=[true, 0.9]", "optimizer.betas"),
        ("data.size=100000000000000", "less than or equal to 10000000"),
        ("data=3", "data = 3"),
        ("data=[1]", "data = [1]"),
        ("data.seed=true", "seed = True"),
        ("objective.kl_prcp_coef=true", "kl_prcp_coef = True"),
        ("perturbations.removed.ratio=true", "ratio = True"),
        ("model.path=" + "x" * 5000, "the name is 5000 bytes long"),
        ('model.path="a\\u0000b"', "cannot hold a NUL character"),
        ("a." * 40 + "b=1", f"more than {MOST_DEPTH} tables or lists"),
        ("steps=" + "[" * 5000, "more than 32 tables or lists"),
        ("steps=" + "9" * 5000, "steps = '999"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_a_value_of_another_kind_is_refused(
    override: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "config", "quickstart_papo", override)


def test_whole_numbers_may_be_written_as_floats_and_numbers_as_integers() -> None:
    config = load(None, data="world", overrides=["steps=2e1", "optimizer.lr=0", "sampling.temperature=1"])
    assert config.steps == 20 and type(config.steps) is int
    assert config.optimizer.lr == 0.0 and type(config.sampling.temperature) is float


@pytest.mark.parametrize("device", ["meta", "tpu9", "cpu:x", "", "cuda:99", "vulkan"])
def test_a_device_without_values_is_refused(device: str) -> None:
    with pytest.raises(FovealError, match="not usable"):
        resolve_device(device)


def test_a_long_chain_of_configs_is_refused_and_a_short_one_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(2000):
        (tmp_path / f"{n}.toml").write_text(f'extends = "{n + 1}.toml"\nseed = {n}\n')
    (tmp_path / "2000.toml").write_text('data = "world"\n')
    assert f"more than {MOST_EXTENDS} times" in refused(capsys, "config", str(tmp_path / "0.toml"))
    (tmp_path / f"{MOST_EXTENDS - 1}.toml").write_text(
        'data = "world"\nobjective = "grpo"\nrewards = [{type = "boxed"}]'
    )
    assert load(tmp_path / "0.toml").seed == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = " + "[" * 9000, "too deep"),
        ("x = " + "[" * 60 + "]" * 60, f"more than {MOST_DEPTH} deep"),
        ("[" + "a." * 60 + "b]\nc = 1", f"more than {MOST_DEPTH} deep"),
        ("x = 1\n" * 2, "not valid TOML"),
        ("x = 1" + "0" * 5000, "cannot be read|not valid TOML"),
        ("#" * (5 << 20), "has 5 MB"),
        ('extends = "' + "e" * 5000 + '"', "bytes long"),
        ('extends = "a\\u0000"', "NUL"),
        ("extends = 3", "is not the path of a TOML file"),
        ('extends = "."', "no such config file"),
        ('model = 3\ndata = "world"', "model = 3"),
        ("data = 3", "data = 3"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_is_no_config_is_refused(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    (tmp_path / "c.toml").write_text(text)
    assert re.search(told, refused(capsys, "config", str(tmp_path / "c.toml")))
    words = [
        "train",
        str(tmp_path / "c.toml"),
        "--model",
        "tiny",
        "--data",
        "world",
        "--out",
        str(tmp_path / "run"),
    ]
    assert re.search(told, refused(capsys, *words))
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "c.toml")
    assert "no such config file" in refused(capsys, "config", str(tmp_path / "c.toml"))


def test_options_replace_a_bare_name_in_a_config(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        'model = "tiny"\ndata = "world"\nobjective = "grpo"\nrewards = [{type = "boxed"}]'
    )
    found = load(tmp_path / "c.toml", model="tiny-text-prior", data="rows.jsonl")
    assert found.model.path == "tiny-text-prior" and found.data.path == "rows.jsonl"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"model = 'tiny': expected a table"):
        load(tmp_path / "c.toml")


@pytest.mark.parametrize("text", ["[" * 9999, '[{"question": ' * 9999, "[1e999, NaN]", "\ud800"])
@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_a_file_that_is_no_data_is_refused(
    text: str, ending: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / f"d.{ending}"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    said = refused(
        capsys, "train", "--model", "tiny", "--data", str(file), "--out", str(tmp_path / "run"), *SMALL
    )
    assert file.name in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["/", "/proc", "/dev"])
def test_a_disk_is_no_data(place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing is looked through for minutes to find a data file."""
    start = time.process_time()
    words = ["train", "--model", "tiny", "--data", place, "--out", str(tmp_path / "run"), *SMALL]
    refused(capsys, *words)
    assert time.process_time() - start < 10 and not (tmp_path / "run").exists()
