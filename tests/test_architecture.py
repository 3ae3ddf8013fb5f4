"""The house rules that a machine can check: imports point down, light imports stay light, files are short."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "foveal"
FILE_LINES = 400
FUNCTION_LINES = 60

LAYERS: tuple[tuple[str, ...], ...] = (
    ("text", "spec", "foreign", "instances", "keys", "tables", "ranges", "boundary", "console"),
    ("types", "problem", "tokens", "views", "signs"),
    (
        "advantages",
        "collapse",
        "losses",
        "objectives",
        "perturbations",
        "rewards",
        "evaluation.stats",
        "compat",
    ),
    ("data", "policy", "rollout", "worlds", "saliency"),
    ("config", "crosscheck", "switches"),
    ("train", "evaluation", "diagnosis", "report"),
    ("jobs",),
    ("quickstart", "sweep"),
    ("api", "cli", "__main__"),
)
"""From the bottom up; a module may import from its own layer and from those below. The longest name wins."""

PURE = LAYERS[2]
MODEL_AND_FILE_MODULES = frozenset(
    "datasets glob http huggingface_hub pathlib peft pyarrow ray requests rich safetensors shutil socket "
    "sqlite3 tempfile tokenizers tomllib transformers urllib vllm".split()
)
PROCESS_ISOLATION = {
    "rewards.chat",
    "rewards.containment",
    "rewards.grading",
    "rewards.judge",
    "rewards.pool",
    "rewards.worker",
}
"""Graders in worker processes, and judges behind a server: the one part of the pure layer that talks to the
operating system."""

OPTIONAL = ("datasets", "peft", "ray", "tensorboard", "trackio", "vllm", "wandb")
GLOBAL_RANDOM_NUMPY = frozenset(
    "seed rand randn randint random choice shuffle permutation normal uniform".split()
)
GLOBAL_RANDOM_TORCH = frozenset(("seed", "set_rng_state"))

LONG_FILES: frozenset[str] = frozenset()
LONG_FUNCTIONS: frozenset[str] = frozenset()
"""Exceptions to the two length limits, as "policy/forward.py" and "policy/forward.py:forward"."""


@cache
def modules() -> dict[str, Path]:
    """Every module by its name below `foveal`; the package itself is ""."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def source_files() -> Iterator[tuple[str, Path]]:
    for path in modules().values():
        yield path.relative_to(SOURCE).as_posix(), path


def imported(name: str, *, eager_only: bool = False) -> set[str]:
    """Full names of what a module imports, those inside functions too unless `eager_only`."""
    path = modules()[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in _eager(tree(path)) if eager_only else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(
                [*(["foveal", *up] if node.level else []), *([node.module] if node.module else [])]
            )
            for alias in node.names:
                inside = f"{base}.{alias.name}".removeprefix("foveal.")
                found.add(f"foveal.{inside}" if base.startswith("foveal") and inside in modules() else base)
    return found


def _eager(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: no function bodies, nothing under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _eager(child)


def layer(name: str) -> int:
    """Height of a module; one that stands in no layer is an error, so that new ones are placed on purpose."""
    for depth in range(name.count(".") + 1, 0, -1):
        prefix = ".".join(name.split(".")[:depth])
        for height, members in enumerate(LAYERS):
            if prefix in members:
                return height
    raise LookupError(f"module foveal.{name} stands in no layer; add it to LAYERS in {Path(__file__).name}")


def inside(name: str, members: tuple[str, ...]) -> bool:
    return any(name == member or name.startswith(f"{member}.") for member in members)


def test_every_module_imports_only_from_its_own_layer_or_below() -> None:
    wrong = []
    for name in filter(None, modules()):
        layer(name)  # a module without a place is an error even when nothing imports it
        for target in sorted(imported(name)):
            below = target.removeprefix("foveal.")
            if below != target and layer(below) > layer(name):
                wrong.append(f"foveal.{name} (layer {layer(name)}) imports {target} (layer {layer(below)})")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports() -> None:
    graph = {
        name: {t.removeprefix("foveal.") for t in imported(name, eager_only=True) if t.startswith("foveal.")}
        for name in modules()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            pytest.fail("circular import: " + " -> ".join((*path[path.index(name) :], name)))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n in modules() if inside(n, PURE) and n not in PROCESS_ISOLATION])
def test_pure_maths_touches_neither_models_nor_files(name: str) -> None:
    found = {target.split(".")[0] for target in imported(name)} & MODEL_AND_FILE_MODULES
    assert not found, f"foveal.{name} imports {sorted(found)}"
    calls = {
        n.func.id
        for n in ast.walk(tree(modules()[name]))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}, f"foveal.{name} reads or writes"


def test_report_imports_neither_torch_nor_training() -> None:
    for name in (n for n in modules() if inside(n, ("report",))):
        for target in imported(name):
            below = target.removeprefix("foveal.")
            assert target.split(".")[0] not in {"torch", "transformers"}, f"foveal.{name} imports {target}"
            assert not inside(below, ("train", "types", "policy", "rollout")), (
                f"foveal.{name} imports {target}"
            )


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_imported_in_one_module_at_most(package: str) -> None:
    users = [name for name in modules() if any(t.split(".")[0] == package for t in imported(name))]
    assert len(users) <= 1, f"{package} is imported by {users}; keep it inside one"


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after a statement; it may end by SystemExit."""
    code = (
        "import sys\n"
        f"try:\n    {statement}\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\n@' + ' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("@", 1)[1].split())


HEAVY = {"torch", "transformers", "numpy", "pyarrow", "matplotlib", "PIL", "math_verify", "sympy"}


def test_import_foveal_loads_nothing_heavy() -> None:
    assert not loaded_after("import foveal") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    found = loaded_after("import foveal.cli; sys.argv = ['foveal', '--help']; sys.exit(foveal.cli.main())")
    assert not found & HEAVY


def test_all_report_modules_load_without_torch() -> None:
    names = [f"foveal.{n}" for n in modules() if inside(n, ("report",))]
    assert not loaded_after(f"import {', '.join(names)}") & {"torch", "transformers"}


def test_config_errors_and_keys_load_without_torch() -> None:
    assert "torch" not in loaded_after("import foveal.spec, foveal.keys")


@pytest.mark.parametrize(("name", "path"), list(source_files()), ids=[name for name, _ in source_files()])
def test_source_keeps_the_rules(name: str, path: Path) -> None:
    wrong = [*_lengths(name, path), *_statements(path), *_comments(path)]
    assert not wrong, "\n".join(f"src/foveal/{name}:{line}" for line in wrong)


def _lengths(name: str, path: Path) -> Iterator[str]:
    lines = len(path.read_text().splitlines())
    if lines > FILE_LINES and name not in LONG_FILES:
        yield f"1: {lines} lines; split it by reason to change (limit {FILE_LINES})"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES and f"{name}:{node.name}" not in LONG_FUNCTIONS:
                yield f"{node.lineno}: {node.name} has {length} lines (limit {FUNCTION_LINES})"


def _statements(path: Path) -> Iterator[str]:
    text = path.read_text()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assert):
            yield f"{node.lineno}: assert; raise an error that says what to change"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{node.lineno}: bare except"
        elif isinstance(node, ast.ImportFrom) and node.module == "__future__" and "jaxtyping" in text:
            yield f"{node.lineno}: future annotations hide shapes from the run-time check"
        elif isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            yield f"{node.lineno}: global random state; use foveal.keys.generator"
        elif isinstance(node, ast.Attribute) and _is_global_random(node):
            yield f"{node.lineno}: {ast.unparse(node)}: global random state; use foveal.keys.generator"


def _is_global_random(node: ast.Attribute) -> bool:
    owner = ast.unparse(node.value)
    if owner in {"np.random", "numpy.random"}:
        return node.attr in GLOBAL_RANDOM_NUMPY
    return owner == "torch" and node.attr in GLOBAL_RANDOM_TORCH


def _comments(path: Path) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
                yield f"{token.start[0]}: {token.string}"
            if re.search(r"#\s*type:\s*ignore(?!\[)", token.string) or re.search(
                r"#\s*noqa(?!:)", token.string
            ):
                yield f"{token.start[0]}: {token.string} names no rule"


def test_every_source_folder_is_a_package() -> None:
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    missing = [
        str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").is_file()
    ]
    assert not missing, f"left out of an installed package for want of __init__.py: {missing}"


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({n for n in names if names.count(n) > 1}) == []


def test_layers_name_each_place_once() -> None:
    names = [name for members in LAYERS for name in members]
    assert len(names) == len(set(names))
    with pytest.raises(LookupError, match="stands in no layer"):
        layer("somewhere_else")
