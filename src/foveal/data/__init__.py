"""Problems from files: parquet, JSONL, picture folders, the Hugging Face hub, and procedural worlds.

A source of your own is a class derived from `foveal.data.problems.DataSource`, chosen by `type =
"my_file:MySource"`.
"""

REGISTRY: dict[str, str] = {
    "auto": "foveal.data.problems:DataConfig",
    "parquet": "foveal.data.problems:DataConfig",
    "jsonl": "foveal.data.problems:DataConfig",
    "folder": "foveal.data.problems:DataConfig",
    "saved": "foveal.data.problems:DataConfig",
    "hub": "foveal.data.problems:DataConfig",
    "problems": "foveal.data.saved:SavedProblems",
    "world": "foveal.data.world:WorldDataConfig",
}
"""Short name -> import path."""

__all__ = ["REGISTRY"]
