"""The line of JSON with which a benchmark ends."""

import json
from pathlib import Path
from typing import Any


def end(result: dict[str, Any], file: str | None) -> None:
    """Print the result as one line, and append it to a file where one is given."""
    line = json.dumps(result)
    print(line)
    if file:
        with Path(file).open("a") as out:
            out.write(line + "\n")
