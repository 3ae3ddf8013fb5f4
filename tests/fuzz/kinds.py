"""What is damaged: configs, data and pictures, model folders, run folders, words of the command line."""

import json
import shutil
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from numpy.random import Generator
from PIL import Image

from data_files import png
from fuzz.harness import Kind
from fuzz.mutate import ODD_VALUES, TEXT_ONLY, damage_file, damage_place, damaged_bytes, damaged_value, pick
from tiny_models import build_folder

SMALL = (
    "steps=1",
    "threads=1",
    "model.attention=split",
    "model.linears=torch",
    "sampling.max_new_tokens=2",
    "sampling.group_size=2",
    "sampling.prompts_per_step=1",
    'rewards=[{type="choice"}]',
)
"""A step that takes a tenth of a second, and a reward that needs no worker."""


class Bases:
    """Sound input that cases copy and damage; made once a process."""

    def __init__(self, folder: Path) -> None:
        self.model = build_folder(folder / "model")
        self.run = folder / "run"
        _make_run(self.model, self.run)
        self.config = tomllib.loads((self.run / "config.toml").read_text())


_bases: list[Bases] = []


def use(folder: Path) -> None:
    """Make the bases in a folder, unless this process has them."""
    if not _bases:
        _bases.append(Bases(folder))


def _make_run(model: Path, run: Path) -> None:
    from foveal.config import load
    from foveal.train import loop

    words = [word for word in SMALL if not word.startswith("steps")]
    words += ["steps=2", "checkpoint.every=1", "checkpoint.keep=2", "data.size=8"]
    words += ['validation={data={type="world",split="heldout"},every=1,problems=1}']
    loop.start(load(None, data="world", model=str(model), overrides=words), run)


def _toml(value: Any) -> Any:
    """The value as TOML can say it."""
    if isinstance(value, dict):
        return {str(key): _toml(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_toml(inner) for inner in value if inner is not None]
    if isinstance(value, int) and abs(value) > 2**63:
        return 2**62
    return value


@cache
def _dotted() -> tuple[str, ...]:
    found = []

    def walk(table: Any, prefix: str) -> None:
        for key, value in table.items():
            found.append(prefix + key)
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk(_bases[0].config, "")
    return tuple(found)


def config(folder: Path, rng: Generator) -> Sequence[str]:
    """A config file with changed values or bytes; printed, listed as a sweep, or started."""
    table = _bases[0].config
    for _ in range(int(rng.integers(1, 4))):
        table = damaged_value(table, rng)
        table = table if isinstance(table, dict) else dict(_bases[0].config)
    command = pick(rng, ["config", "config", "config", "sweep", "train"])
    if command == "sweep":
        sweep = {"seeds": 2, "problems": 4, "set": {"objective.kl_prcp_coef": [0.0, 0.01]}}
        table = {**table, "sweep": damaged_value(sweep, rng)}
    if rng.random() < 0.2:
        table = {**table, "extends": pick(rng, ODD_VALUES)}
    text = tomli_w.dumps(_toml(table)).encode("utf-8", "replace")
    file = folder / "c.toml"
    file.write_bytes(damaged_bytes(text, rng) if rng.random() < 0.25 else text)
    if rng.random() < 0.03:
        damage_place(file, rng)
    words = [command, "c.toml", *(["--dry-run"] if command == "sweep" else [])]
    if command == "train":
        # What is not refused has to end: a step over a world.
        words += [
            *SMALL,
            "validation.every=9",
            "--model",
            str(_bases[0].model),
            "--data",
            "world",
            "--out",
            "run",
        ]
    return words


def override(folder: Path, rng: Generator) -> Sequence[str]:
    """Overrides of known and unknown keys by odd values, on a shipped config or none."""
    words = []
    for _ in range(int(rng.integers(1, 4))):
        key = pick(rng, _dotted())
        if rng.random() < 0.2:
            key = (
                str(damaged_value(key, rng))
                if rng.random() < 0.5
                else key + "." + str(pick(rng, ["0", "x", "", "-1"]))
            )
        value = pick(rng, ODD_VALUES)
        text = str(
            pick(rng, [value, json.dumps(value), f"{{type={json.dumps(value)}}}", "[" * 2000, f"[{value}]"])
        )
        words.append(f"{key}={text}"[:6000])
    return [
        "config",
        *([] if rng.random() < 0.3 else [str(pick(rng, ["quickstart_papo", "own_data", "sweep_gamma"]))]),
        *words,
    ]


def command_line(folder: Path, rng: Generator) -> Sequence[str]:
    """Odd values for the options of each command."""
    odd = [str(value) for value in ODD_VALUES if not isinstance(value, dict | list)]

    def word() -> str:
        return str(pick(rng, odd))

    model = str(_bases[0].model)
    ways = [
        ["train", word(), "--model", word(), "--out", word(), "--data", "world"],
        ["train", "--model", model, "--data", word(), *SMALL, "--out", "run"],
        ["train", "--resume", word()],
        ["evaluate", "--model", word(), "--data", word(), "--problems", word()],
        [
            "evaluate",
            "--model",
            model,
            "--data",
            "world",
            "--samples",
            word(),
            "--problems",
            "1",
            "--out",
            "e",
        ],
        ["evaluate", "--model", model, "--data", "world", "--against", word(), "--problems", "1"],
        ["report", word()],
        ["sweep", "sweep_gamma", "--dry-run", "--set", f"{word()}={word()}", "--seeds", word()],
        ["sweep", word(), "--dry-run"],
        ["config", word(), word()],
        ["worlds", "show", "--families", word(), "--out", word(), "--n", "1"],
        [word(), word()],
    ]
    # A process has no words with NUL in them; and what is a folder of this machine is none of a case's.
    return [part for part in pick(rng, ways) if part not in ("/", "..", "/dev/stdin") or rng.random() < 0.2]


def _rows(rng: Generator, pictures: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"row{n}",
            "question": f"<image>How many dots are in picture {n}?",
            "answer": str(n),
            "images": [picture],
            "options": ["1", "2", "3"],
        }
        for n, picture in enumerate(pictures)
    ]


def _usage(file: str, rng: Generator) -> list[str]:
    """Commands that read data; a run has to leave nothing behind."""
    model = str(_bases[0].model)
    way = rng.random()
    if way < 0.2:
        return ["data", "check", file, "--model", model, "--write", "bad.jsonl"]
    if way < 0.3:
        return ["data", "show", file, "--model", model]
    if way < 0.7:
        return ["evaluate", "--model", model, "--data", file, "--problems", "3", *SMALL[1:]]
    return ["train", "--model", model, "--data", file, "--out", "run", *SMALL]


def data(folder: Path, rng: Generator) -> Sequence[str]:
    """Rows in a file of each kind, with changed values, columns or bytes."""
    kind = pick(rng, ["jsonl", "json", "csv", "parquet", "folder"])
    for n in range(3):
        Image.new("RGB", (56, 56 + 28 * n), "red").save(folder / f"p{n}.png")
    rows = _rows(rng, [f"p{n}.png" for n in range(3)])
    for _ in range(int(rng.integers(0, 3))):
        place = int(rng.integers(len(rows)))
        changed = damaged_value(rows[place], rng, pool=TEXT_ONLY)
        rows[place] = changed if isinstance(changed, dict) or kind in ("json", "jsonl") else rows[place]
    place = folder / "set"
    if kind == "folder":
        place.mkdir()
        for n in range(3):
            shutil.move(folder / f"p{n}.png", place / f"p{n}.png")
        file = place / "metadata.jsonl"
    else:
        file = folder / f"d.{kind}"
    _write(file, rows, rng)
    if rng.random() < 0.45:
        target = pick(rng, sorted(p for p in folder.rglob("*") if p.is_file()))
        damage_file(target, rng)
    return _usage("set" if kind == "folder" else file.name, rng)


def _write(file: Path, rows: list[Any], rng: Generator) -> None:
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    elif file.suffix == ".csv":
        names = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[str(row.get(name, "")) for name in names] for row in rows]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in [names, *cells]]
        file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    else:
        _write_parquet(file, rows, rng)


def _write_parquet(file: Path, rows: list[Any], rng: Generator) -> None:
    """Pictures as bytes; values that a column cannot hold become text."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns: dict[str, Any] = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        if name == "images":
            cells = [[{"bytes": png("red", (56, 56)), "path": str(n)}] for n in range(len(rows))]
            if rng.random() < 0.4:
                place = int(rng.integers(len(cells)))
                cells[place] = pick(rng, [None, [], [None], [{"bytes": b"", "path": None}], cells[place] * 3])
                if rng.random() < 0.5:
                    cells[place] = [{"bytes": damaged_bytes(png("red", (56, 56)), rng), "path": "x.png"}]
        try:
            columns[name] = pa.array(cells)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            columns[name] = pa.array(
                [repr(cell)[:9000].encode("utf-8", "replace").decode() for cell in cells]
            )
    pq.write_table(pa.table(columns), file, row_group_size=2)


def picture(folder: Path, rng: Generator) -> Sequence[str]:
    """Sound rows over a picture whose bytes are damaged, or that is of an odd shape, mode or format."""
    formats = [
        "PNG",
        "JPEG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "ICO",
        "PPM",
        "TGA",
        "DDS",
        "EPS",
        "PDF",
        "SGI",
        "PCX",
    ]
    form = pick(rng, formats)
    size = pick(rng, [(56, 56), (1, 1), (300, 1), (1, 300), (57, 99), (28, 5600), (3, 700)])
    mode = pick(rng, ["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "F", "LA"])
    file = folder / f"p0.{form.lower()}"
    try:
        Image.new(mode, size, 1).save(file, format=form)
    except (OSError, ValueError, KeyError, TypeError):
        Image.new("RGB", size, "red").save(file, format=form if form not in ("ICO",) else "PNG")
    if rng.random() < 0.75:
        damage_file(file, rng)
    rows = _rows(rng, [file.name])
    (folder / "d.jsonl").write_text(json.dumps(rows[0]) + "\n")
    return [*_usage("d.jsonl", rng), *(["data.oversize=resize"] if rng.random() < 0.5 else [])]


TEMPLATES = (
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 10**(10**10) }}",
    "{{ 'x' * 10**11 }}",
    "{% for %}",
    "{{ raise_exception('no') }}",
    "{{ nothing.at.all }}",
    "{{ messages[7].content }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include '/etc/passwd' %}",
    "{{ messages | tojson(indent=10**9) }}",
    "plain text without a picture",
    "<|image_pad|>" * 3,
    "{{ '<|image_pad|>' }}\x1b[2J",
    "",
)


def model(folder: Path, rng: Generator) -> Sequence[str]:
    """A model folder with a file damaged, a value of a config changed, or a template that misbehaves."""
    place = folder / "m"
    shutil.copytree(_bases[0].model, place)
    way = rng.random()
    files = sorted(place.iterdir())
    if way < 0.35:
        name = pick(rng, ["config.json", "config.json", "config.json", "generation_config.json"])
        name = pick(rng, [name, name, "preprocessor_config.json", "tokenizer_config.json"])
        table = json.loads((place / name).read_text())
        for _ in range(int(rng.integers(1, 3))):
            changed = damaged_value(table, rng, pool=TEXT_ONLY)
            table = changed if isinstance(changed, dict) else table
        (place / name).write_text(json.dumps(table))
    elif way < 0.45:
        template = pick(rng, TEMPLATES[3:]) if rng.random() < 0.93 else pick(rng, TEMPLATES[:3])
        (place / "chat_template.jinja").write_text(template)
    elif way < 0.55:
        _damage_weights(place, rng)
    else:
        damage_file(pick(rng, files), rng)
    if rng.random() < 0.7:
        return ["evaluate", "--model", "m", "--data", "world", "--problems", "1", *SMALL[1:]]
    return ["train", "--model", "m", "--data", "world", "--out", "run", *SMALL]


def _damage_weights(place: Path, rng: Generator) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    file = place / "model.safetensors"
    weights = load_file(file)
    name = pick(rng, sorted(weights))
    way = pick(rng, ["nan", "inf", "shape", "kind", "gone", "more", "pickle", "huge"])
    if way in ("nan", "inf", "huge"):
        weights[name].view(-1)[0] = {"nan": float("nan"), "inf": float("inf"), "huge": 3e38}[way]
    elif way == "shape":
        weights[name] = weights[name][..., :-1].contiguous()
    elif way == "kind":
        weights[name] = weights[name].to(pick(rng, [torch.float16, torch.int32, torch.float64, torch.bool]))
    elif way == "gone":
        del weights[name]
    elif way == "more":
        weights["x\x1b[2J"] = torch.zeros(3)
    if way == "pickle":
        file.unlink()
        torch.save(weights, place / "pytorch_model.bin")
        return
    save_file(weights, file, metadata={"format": "pt"})


def run(folder: Path, rng: Generator) -> Sequence[str]:
    """A run folder with one of its files damaged; gone on with, evaluated, or its page written."""
    place = folder / "r"
    shutil.copytree(_bases[0].run, place)
    command = pick(rng, ["resume", "resume", "resume", "resume", "evaluate", "report"])
    if command == "resume" and rng.random() < 0.7:
        (place / "summary.json").unlink()
    if command == "resume" and rng.random() < 0.5:
        shutil.rmtree(place / "checkpoints" / "step-000002")
    files = sorted(p for p in place.rglob("*") if p.is_file() and "model" not in p.parent.name)
    if command == "report":
        files = [place / name for name in ("metrics.jsonl", "completions.jsonl", "config.toml")]
        thin = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        keep = ("step", "kind", "reward/mean", "validation/accuracy")
        lines = [json.dumps({k: v for k, v in line.items() if k in keep}) for line in thin]
        (place / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    elif rng.random() < 0.25:
        files = sorted((place / "checkpoints").rglob("model/*"))
    target = pick(rng, files)
    if target.name == "state.json" and rng.random() < 0.7:
        state = json.loads(target.read_text())
        key = pick(rng, sorted(state))
        target.write_text(json.dumps({**state, key: pick(rng, TEXT_ONLY)}))
    elif rng.random() < 0.05:
        folders = [p for p in place.iterdir() if p.is_dir()]
        damage_place(pick(rng, folders), rng)
    else:
        damage_file(target, rng)
    if command == "resume":
        return ["train", "--resume", "r"]
    if command == "evaluate":
        return ["evaluate", "--model", "r", "--data", "world", "--problems", "1", *SMALL[1:]]
    return ["report", "r"]


KINDS = {
    made.__name__: Kind(name=made.__name__, prepare=made)
    for made in (config, override, command_line, data, picture, model, run)
}
