"""What is given to the functions of this package, checked before any work is done."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.boundary import require_name
from foveal.foreign import answers
from foveal.spec import ConfigError
from foveal.train.watcher import AnyCallback, Callback

TRAIN_WORDS: Mapping[str, str] = {
    "train_dataset": "data=",
    "dataset": "data=",
    "train_files": "data=",
    "eval_dataset": "validation=",
    "val_files": "validation=",
    "reward_funcs": "rewards=",
    "reward_fn": "rewards=",
    "reward": "rewards=",
    "output_dir": "out=",
    "model_name_or_path": "model=",
    "model_path": "model=",
    "resume_from_checkpoint": "foveal.resume(PATH)",
}
"""Arguments of other libraries that are arguments here; their settings are answered as in a config."""

EVALUATE_WORDS: Mapping[str, str] = {
    "dataset": "data=",
    "eval_dataset": "data=",
    "reward_funcs": "rewards=",
    "reward_fn": "rewards=",
    "reward": "rewards=",
    "output_dir": "out=",
    "model_name_or_path": "model=",
    "n": "k=",
    "num_samples": "k=",
    "limit": "problems=",
    "num_generations": "k=",
}


def require_own_words(
    settings: Mapping[str, Any], *, words: Mapping[str, str], known: Sequence[str], name: str
) -> None:
    """Raises: ConfigError for arguments that other libraries have, with ours."""
    told = []
    for key, value in settings.items():
        first = str(key).replace("__", ".").split(".")[0]
        if key in words:
            told.append(f"{name}: unknown argument {key!r}; here it is {words[key]}")
        elif first not in known:
            told += [f"{name}: unknown key {theirs!r}; {ours}" for theirs, ours in answers(str(key), value)]
    if told:
        raise ConfigError("\n".join(told))


def callbacks_of(callbacks: Any, *, name: str) -> list[AnyCallback]:
    """Callbacks as a list; one by itself is a list of one.

    Raises: ConfigError for what cannot be called.
    """
    if callbacks is None:
        return []
    single = isinstance(callbacks, Callback) or callable(callbacks)
    if not single and not isinstance(callbacks, Sequence | set | frozenset) or isinstance(callbacks, str):
        raise ConfigError(
            f"{name}: callbacks is a {type(callbacks).__name__}; expected a list of foveal.Callback objects, "
            f"or of functions that are called with the metrics of each step"
        )
    found = [callbacks] if single else list(callbacks)
    for number, callback in enumerate(found):
        if isinstance(callback, type):
            raise ConfigError(
                f"{name}: callback {number} is the class {callback.__name__}; expected an object of it: "
                f"{callback.__name__}()"
            )
        if not (isinstance(callback, Callback) or callable(callback)):
            raise ConfigError(
                f"{name}: callback {number} is a {type(callback).__name__}; expected a foveal.Callback, or a "
                f"function that is called with the metrics of each step"
            )
    return found


def folder_of(out: Any, *, name: str) -> Path:
    """The folder that is named.

    Raises: ConfigError for what names none, and for a file.
    """
    folder = path_of(out, name=f"{name}: out", expected="a folder")
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise ConfigError(f"{name}: out {folder} is a file; expected a folder, or a name that is free")
    return folder


def path_of(value: Any, *, name: str, expected: str) -> Path:
    """The path that is named.

    Raises: ConfigError for what names none.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name} is {_kind(value)}; expected {expected}")
    text = os.fspath(value)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{name} is {'empty' if isinstance(text, str) else 'bytes'}; expected {expected}")
    require_name(text, where=name)
    return Path(text)


def require_whole(value: Any, *, name: str) -> None:
    """Raises: ConfigError, when this is no integer above 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}, {_kind(value)}; expected an integer of at least 1")
    if value < 1:
        raise ConfigError(f"{name} is {value}; expected at least 1")


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
