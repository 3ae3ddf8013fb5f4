"""Layouts of data sets: from the columns of a file to question, pictures, answer and options.

`understand` finds the mapping from names and a sample of rows; `read_row` applies it. Both are pure.
"""

from foveal.data.layouts.detect import Table, understand
from foveal.data.layouts.reading import Fields, read_row
from foveal.data.layouts.understanding import Source, Understanding, is_empty, value_at

__all__ = ["Fields", "Source", "Table", "Understanding", "is_empty", "read_row", "understand", "value_at"]
