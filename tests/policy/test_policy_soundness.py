"""A model folder that is not what it should be is refused by name; nothing in it is run."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveal.cli import main
from foveal.policy import load_policy
from foveal.policy.template import require_bounded
from foveal.spec import FovealError
from foveal.types import Problem


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    table = json.loads(file.read_text())
    found = edit(table)
    file.write_text(json.dumps(table if found is None else found))


def put(file: str, *keys: str, value: Any) -> Callable[[Path], None]:
    """Set a value below keys of a JSON file."""

    def edit(folder: Path) -> None:
        def into(table: dict[str, Any]) -> None:
            for key in keys[:-1]:
                table = table[key]
            table[keys[-1]] = value

        change(folder / file, into)

    return edit


def write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


def weight(value: float) -> Callable[[Path], None]:
    """One number of one weight."""

    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def pipe(file: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return edit


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def remote_code(folder: Path) -> None:
    """What asks transformers to import a file of the folder."""
    (folder / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    auto = {
        "AutoConfig": "evil.Config",
        "AutoModelForImageTextToText": "evil.Model",
        "AutoTokenizer": ["evil.T", None],
    }
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        change(folder / name, lambda table: table.update(auto_map=auto))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights cut off": (
        lambda f: os.truncate(f / "model.safetensors", 5000),
        "weights in .* cannot be loaded: model.safetensors is damaged",
    ),
    "weights empty": (write("model.safetensors", b""), "model.safetensors is damaged"),
    "weights noise": (write("model.safetensors", b"\x93" * 4000), "model.safetensors is damaged"),
    "weights pickled": (
        pickled,
        r"no weights in .safetensors files \(pytorch_model.bin is a pickle, which can hold",
    ),
    "weights not a number": (
        weight(float("nan")),
        "1 of its weights are not finite, such as 'model.language_model",
    ),
    "weights infinite": (weight(float("inf")), "1 of its weights are not finite"),
    "weights a pipe": (pipe("model.safetensors"), "model.safetensors is neither a file nor a folder"),
    "tokenizer a pipe": (pipe("tokenizer.json"), "tokenizer.json is neither a file nor a folder"),
    "config a list": (write("config.json", b"[1]"), "config.json holds a JSON list; expected a table"),
    "config deep": (write("config.json", b'{"a":' * 9999), "config.json cannot be read"),
    "config of nothing": (write("config.json", b"{}"), "has no pictures: its model_type is None"),
    "model_type a list": (
        put("config.json", "model_type", value=["qwen2_5_vl"]),
        r"model_type \['qwen2_5_vl'\]",
    ),
    "generation_config broken": (
        write("generation_config.json", b"{"),
        "generation_config.json cannot be read",
    ),
    "generation_config a list": (
        write("generation_config.json", b"[]"),
        "generation_config.json holds a JSON list",
    ),
    "preprocessor_config a list": (
        write("preprocessor_config.json", b"[]"),
        "preprocessor_config.json holds a JSON",
    ),
    "preprocessor_config empty": (
        write("preprocessor_config.json", b""),
        "preprocessor_config.json cannot be read",
    ),
    "tokenizer noise": (
        write("tokenizer.json", b"\x00\xff"),
        "tokenizer or the picture settings of .* cannot be",
    ),
    "tokenizer a list": (
        write("tokenizer.json", b"[]"),
        "tokenizer or the picture settings of .* cannot be read",
    ),
    "tokenizer_config a list": (
        write("tokenizer_config.json", b"[]"),
        "tokenizer_config.json holds a JSON list",
    ),
    "tokenizer missing": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    "patch_size 0": (
        put("config.json", "vision_config", "patch_size", value=0),
        "vision_config.patch_size = 0",
    ),
    "patch_size text": (put("config.json", "vision_config", "patch_size", value="14"), "patch_size = '14'"),
    "patch_size other": (
        put("preprocessor_config.json", "patch_size", value=16),
        "have patch_size = 16, the vision_config of its config.json has 14",
    ),
    "merge_size other": (put("preprocessor_config.json", "merge_size", value=4), "have merge_size = 4"),
    "picture size reversed": (
        put("preprocessor_config.json", "size", value={"shortest_edge": 9000, "longest_edge": 784}),
        "have size = ",
    ),
    "picture size huge": (
        put("preprocessor_config.json", "size", value={"shortest_edge": 10**12, "longest_edge": 10**13}),
        "have size = ",
    ),
    "picture mean text": (put("preprocessor_config.json", "image_mean", value="x"), "does not run"),
    "picture std 0": (put("preprocessor_config.json", "image_std", value=[0, 0, 0]), "not finite"),
    "layers negative": (
        put("config.json", "text_config", "num_hidden_layers", value=-1),
        "num_hidden_layers = -1",
    ),
    "layers true": (
        put("config.json", "text_config", "num_hidden_layers", value=True),
        "num_hidden_layers = True",
    ),
    "layers without end": (
        put("config.json", "text_config", "num_hidden_layers", value=10**8),
        "num_hidden_layers = 100000000; expected a whole number from 1 to 10000",
    ),
    "layers more than stored": (
        put("config.json", "text_config", "num_hidden_layers", value=999),
        "num_hidden_layers = 999, but the weights hold|cannot be read",
    ),
    "width other": (
        put("config.json", "text_config", "hidden_size", value=64),
        "weights in .* cannot be loaded",
    ),
    "heads other": (
        put("config.json", "text_config", "num_attention_heads", value=5),
        "cannot be|does not run",
    ),
    "vocabulary other": (put("config.json", "text_config", "vocab_size", value=99), "cannot be loaded|vocab"),
    "end token beyond": (
        put("generation_config.json", "eos_token_id", value=10**6),
        r"the eos_token_id of generation_config.json .* is 1000000, and its embedding has \d+ rows",
    ),
    "end token negative": (
        put("generation_config.json", "eos_token_id", value=-5),
        "is -5, and its embedding",
    ),
    "end tokens text": (
        put("generation_config.json", "eos_token_id", value=["a"]),
        "is 'a', and its embedding",
    ),
    "picture token beyond": (put("config.json", "image_token_id", value=10**6), "picture"),
    "picture token text": (put("config.json", "image_token_id", value="x"), "picture|cannot be read"),
    "rotary sections": (
        put("config.json", "text_config", "rope_parameters", "mrope_section", value=[1, 1, 1]),
        "does not run|cannot be",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_damaged_folder_is_refused_by_name(case: str, folder: Path) -> None:
    damage, told = BAD[case]
    damage(folder)
    with pytest.raises(FovealError, match=told) as caught:
        load_policy(str(folder))
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 900


@pytest.mark.parametrize("case", ["weights not a number", "patch_size other", "end token beyond"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_commands_refuse_it_before_there_is_a_folder(
    command: str, case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, told = BAD[case]
    damage(folder)
    words = [command, "--model", str(folder), "--data", "world", "threads=1"]
    assert main([*words, *(["--out", str(tmp_path / "out")] if command == "train" else [])]) == 2
    said = capsys.readouterr().err
    assert said.count("foveal: ") == 1 and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_nothing_of_a_folder_is_imported(folder: Path) -> None:
    remote_code(folder)
    load_policy(str(folder))
    assert not (folder / "ran").exists()
    change(folder / "config.json", lambda table: table.update(model_type="evil"))
    with pytest.raises(FovealError, match="has model_type 'evil'; expected one of"):
        load_policy(str(folder))
    assert not (folder / "ran").exists()


TEMPLATES = {
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}": "takes more than",
    "{{ 10**(10**10) }}": "takes more than 2 s",
    "{{ 'x' * 10**11 }}": "takes more than 1024 MiB",
    "{{ 'x' * 9999999 }}": "makes a text of 9999999 characters",
    "{% for %}": "chat template of .* fails",
    "{{ raise_exception('not this model') }}": "chat template of .* fails: not this model",
    "{{ nothing.at.all }}": "chat template of .* fails: 'nothing' is undefined",
    "{{ ''.__class__.__mro__ }}": "chat template of .* fails: access to attribute '__class__'",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "chat template of .* fails",
    "{% include '/etc/passwd' %}": "chat template of .* fails",
    "no picture": "its prompt holds 0 picture placeholders for 1 pictures",
}


LONGEST, *OTHERS = TEMPLATES


@pytest.mark.parametrize("template", [pytest.param(LONGEST, marks=pytest.mark.slow), *OTHERS])
def test_a_chat_template_that_misbehaves_is_refused_soon(template: str, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(template)
    start = time.process_time()
    with pytest.raises(FovealError, match=TEMPLATES[template]):
        load_policy(str(folder))
    assert time.process_time() - start < 20


def test_templates_of_the_field_pass() -> None:
    """Loop controls, generation blocks, tojson with arguments and the time, as real templates use them."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    template = (
        "{%- set ns = namespace(n=0) %}{{ bos_token }}{{ strftime_now('%Y') }}{% for m in messages %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}{% for part in m.content %}"
        "{% if part.type == 'image' %}{% set ns.n = ns.n + 1 %}<|image_pad|>{% endif %}{% endfor %}"
        "{% generation %}{{ m | tojson(indent=2, ensure_ascii=False) }}{% endgeneration %}{% endfor %}"
        "{{ ns.n }}"
    )
    require_bounded(template, messages, folder=Path("x"), tokens={"bos_token": "<s>"})


def test_a_sound_folder_is_as_it_was(tiny_folder: Path) -> None:
    """The trial of a load leaves nothing: no held prompt, no kept picture, no graph."""
    policy = load_policy(str(tiny_folder))
    assert policy.training and not policy.held.rows and not policy.held.products
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert (
        policy.processor.encode(Problem(id="trial", question="Why?", images=(), answer="x")).pixels.shape[0]
        == 0
    )
