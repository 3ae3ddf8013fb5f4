"""Checkpoints: two functions on named state. A checkpoint becomes visible only when it is whole."""

import json
import os
import pickle
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from foveal.policy.model import Policy
from foveal.spec import FovealError

PREFIX = "step-"
STATE_FILE = "state.json"
MODEL_FOLDER = "model"
OPTIMIZER_FILE = "optimizer.pt"
PARTIAL = ".partial"
"""End of the hidden name of a folder that is being written or deleted."""
FORMER = ".former"
"""End of the hidden name of a folder that is being replaced."""

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    RecursionError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""What transformers, safetensors, torch and json raise over a damaged file."""


def save_checkpoint(
    folder: Path,
    name: str,
    *,
    policy: Policy,
    optimizer: torch.optim.Optimizer | None,
    state: Mapping[str, Any],
) -> Path:
    """Write `folder/name` with the model as a Hugging Face folder, the optimizer and the state.

    Everything is written to a hidden folder beside it, synced to disk, and renamed into place.
    Raises: FovealError, when it cannot be written, or a weight is not finite; what was there before is left
    as it was.
    """
    require_finite(policy, folder, after=f"the checkpoint {name} is not written")
    target, hidden = folder / name, folder / f".{name}{PARTIAL}"
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        policy.save(hidden / MODEL_FOLDER)
        if optimizer is not None:
            torch.save(optimizer.state_dict(), hidden / OPTIMIZER_FILE)
        (hidden / STATE_FILE).write_text(json.dumps(dict(state), indent=1))
        for path in (*hidden.rglob("*"), hidden):
            _sync(path)
        _put(hidden, target)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors wrap what the disk said in errors of their own. What is half written goes
        # first: a full disk needs the room.
        shutil.rmtree(hidden, ignore_errors=True)
        raise FovealError(
            f"the checkpoint {target} cannot be written: {error} ({_free(folder)} are free there); make room "
            f"on the disk, then go on with the run from its newest checkpoint"
        ) from error
    return target


def require_finite(policy: Policy, folder: Path, *, after: str) -> None:
    """Raises: FovealError, when a weight is NaN or infinite; it names the newest checkpoint in `folder`."""
    bad = [name for name, weight in policy.named_parameters() if not bool(weight.detach().isfinite().all())]
    if not bad:
        return
    newest = latest_checkpoint(folder)
    start = "from the model that this run began with"
    if newest is not None:
        start = f"with --model {newest / MODEL_FOLDER}, the last good checkpoint, which stays as it is,"
    raise FovealError(
        f"{after}: {len(bad)} of the model's weights are not finite, such as {bad[0]!r}; start a new run "
        f"{start} and with a lower optimizer.lr, optimizer.max_grad_norm or coefficient of the objective"
    )


def damaged(checkpoint: Path, file: Path, error: Exception) -> FovealError:
    """The error of a checkpoint whose file cannot be read, with the way out."""
    reason = (str(error).strip().splitlines() or [""])[0].strip() or type(error).__name__
    return FovealError(
        f"{file} cannot be read: {reason}; delete the folder {checkpoint} to go on from an earlier "
        f"checkpoint, or from the start where there is none"
    )


def _free(folder: Path) -> str:
    """Room on the disk of a folder, which need not be there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return f"{shutil.disk_usage(there).free / 2**20:.1f} MiB"


def _put(hidden: Path, target: Path) -> None:
    """Move a whole folder into place; a kill in between leaves the former one under a name that `recover`
    knows."""
    if target.exists():
        former = target.with_name(f".{target.name}{FORMER}")
        shutil.rmtree(former, ignore_errors=True)
        target.rename(former)
        hidden.rename(target)
        shutil.rmtree(former)
    else:
        hidden.rename(target)
    _sync(target.parent)


def load_checkpoint(path: Path, *, policy: Policy, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Put a checkpoint's weights and optimizer state in place; returns its state.

    Raises: FovealError, when a file is damaged, or the checkpoint does not fit the model.
    """
    model: Any = policy.model
    # All is read before anything is put in place.
    file = path / STATE_FILE
    moments: Any = None
    for inner in sorted(path.rglob("*")):
        if not (inner.is_file() or inner.is_dir()):
            raise damaged(path, inner, ValueError("it is no file"))  # a pipe would hold up whoever opens it
    try:
        state: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
        if optimizer is not None:
            file = path / OPTIMIZER_FILE
            moments = torch.load(file, weights_only=True)
        file = path / MODEL_FOLDER
        kind = dict(json.loads((file / "config.json").read_text(encoding="utf-8"))).get("model_type")
        if kind != model.config.model_type:
            # transformers would make a model of billions of weights from a config that says nothing.
            raise ValueError(f"its config.json has model_type {kind!r}, not {model.config.model_type!r}")
        # Weights are stored under the names of the hub, which transformers alone turns into those of its
        # modules.
        stored, loading = type(model).from_pretrained(
            file,
            dtype=next(model.parameters()).dtype,
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    except UNREADABLE as error:
        raise damaged(path, file, error) from error
    try:
        if loading["missing_keys"]:
            raise RuntimeError(f"{len(loading['missing_keys'])} tensors are missing")
        model.load_state_dict(stored.state_dict())
        if optimizer is not None:
            # How a step is computed is this machine's and version's choice, not that of what was stored.
            for group, own in zip(moments["param_groups"], optimizer.param_groups, strict=False):
                group |= {"fused": own["fused"]} if "fused" in own else {}
            optimizer.load_state_dict(moments)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise FovealError(
            f"checkpoint {path} does not fit the model: {reason}; expected the model that it was saved "
            f"from; check [model] path, or delete the folder to go on from an earlier checkpoint"
        ) from error
    return state


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    return max(whole_checkpoints(folder), key=step_of, default=None)


def clean_checkpoints(folder: Path, *, keep: int, spare: Collection[Path] = ()) -> None:
    """Delete all whole checkpoints but the newest `keep` and those of `spare`, and what a killed process left
    half done."""
    recover(folder)
    for path in folder.glob(f".*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted(whole_checkpoints(folder), key=step_of)[:-keep]:
        if path in spare:
            continue
        # Renamed first: a deletion that is cut short must not leave half a checkpoint under its name.
        doomed = path.rename(folder / f".{path.name}{PARTIAL}")
        shutil.rmtree(doomed, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring back a checkpoint whose replacement was cut short by a kill; drop it where the replacement is
    there."""
    for former in folder.glob(f".*{FORMER}"):
        target = folder / former.name.removeprefix(".").removesuffix(FORMER)
        if target.exists():
            shutil.rmtree(former, ignore_errors=True)
        else:
            former.rename(target)


def whole_checkpoints(folder: Path) -> list[Path]:
    """Folders step-N that hold a state; a copy that was cut short and folders of other names do not count."""
    return [
        path
        for path in folder.glob(f"{PREFIX}*")
        if path.name.removeprefix(PREFIX).isdecimal() and (path / STATE_FILE).is_file()
    ]


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix(PREFIX))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
