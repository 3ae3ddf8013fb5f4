"""Where a model's files lie: in a folder, or in the local copy of a hub repository."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from foveal.spec import FovealError


def local_folder(path: str, *, setting: str, weights: bool = True) -> Path:
    """A local folder, or the local copy of a hub repository; `setting` is where the path was given. Without
    `weights` the hub is asked for the small files alone.

    Raises: FovealError, when there is no such model.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / "config.json").is_file():
            near = sorted(str(p.parent) for p in local.glob("*/config.json"))
            hint = f"; did you mean {near[0]}?" if near else ""
            raise FovealError(
                f"the model folder {path} has no config.json; expected a Hugging Face model folder{hint}"
            )
        return local
    if local.exists() or path.startswith(("/", "./", "../", "~")) or path.count("/") != 1:
        raise FovealError(
            f"no such model: {path!r} is not a folder; expected a Hugging Face model folder or a hub id "
            f"'owner/name'; change {setting}"
        )
    try:
        wanted = ["*.json", "*.txt", "*.jinja", "*.model", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FovealError(
            f"no such model: {path!r} is not a local folder, and the hub did not give it ({reason}); "
            f"check the name and the network, or change {setting}"
        ) from error
