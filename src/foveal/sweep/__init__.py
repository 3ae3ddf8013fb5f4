"""`foveal sweep`: one config, several values of some of its keys, several seeds; a curve with intervals."""

from foveal.sweep.command import run

__all__ = ["run"]
