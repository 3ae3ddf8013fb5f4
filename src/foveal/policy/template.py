"""A model folder's chat template is a program by somebody else: it is rendered once under limits first.

transformers renders templates in jinja's sandbox, which keeps them from files and from the interpreter, but
neither from a loop without end nor from a string of many gigabytes. So a process of its own, with a limit of
CPU time and memory, renders the first prompt; what it cannot do in time is refused before a run starts.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from foveal.spec import FovealError
from foveal.text import shortened

CPU_LIMIT_S = 2
WALL_LIMIT_S = 60
"""Generous: it only catches what sleeps, and a loaded machine must not reach it first."""
MEMORY_BYTES = 1 << 30
LONGEST = 1 << 20
"""Characters of the text that a template may make of one short message."""

_CHILD = """
import json, resource, sys
cpu, memory, places, template, variables = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
sys.path += places
import datetime
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.Scope(body).set_lineno(line)
def refuse(message):
    raise TemplateError(message)
def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = refuse
environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
try:
    length = len(environment.from_string(template).render(**variables))
except MemoryError:
    length = None
except Exception:
    length = 0
print(json.dumps(length))
"""
"""Other faults show in transformers' own rendering, which is the one that counts."""


def require_bounded(
    template: str, messages: Sequence[Mapping[str, Any]], *, folder: Path, tokens: Mapping[str, str]
) -> None:
    """Render the template once under limits; `tokens` are the special ones that it may name.

    Raises: FovealError for a template that does not end, or makes too much of a message.
    """
    fault = _fault(template, json.dumps([*messages]), json.dumps({**tokens}))
    if fault is not None:
        raise FovealError(
            f"the chat template of {folder} {fault} for one short message; expected a template that writes "
            f"the messages and ends; take the template of the model that this one was made from"
        )


@lru_cache(maxsize=64)
def _fault(template: str, messages: str, tokens: str) -> str | None:
    variables = {**json.loads(tokens), "messages": json.loads(messages), "add_generation_prompt": True}
    variables |= {"tools": None, "documents": None}
    places = [str(Path(jinja2.__file__).parents[1])]
    given = json.dumps([CPU_LIMIT_S, MEMORY_BYTES, places, template, variables])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD],
            input=given.encode(),
            capture_output=True,
            timeout=WALL_LIMIT_S,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {WALL_LIMIT_S} s"
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {CPU_LIMIT_S} s"
    try:
        length = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"cannot be rendered ({shortened(said[-1] if said else f'status {done.returncode}', 200)})"
    if length is None:
        return f"takes more than {MEMORY_BYTES >> 20} MiB"
    return f"makes a text of {length} characters" if length > LONGEST else None
