"""`foveal quickstart`: several methods from one checkpoint, evaluated on the same held-out problems, on one
page.
"""

from foveal.quickstart.study import run

__all__ = ["run"]
