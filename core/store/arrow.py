"""Columns of the store's tables: their types, and conversion to NumPy.

Avoids Arrow's own conversions, which import pandas first: a third of a second.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from mixsweep.core.config import Field

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def column_type(field: Field) -> pa.DataType:
    """The type of a field's column in a plan."""
    item = _TYPES[field.type]
    return pa.list_(item) if field.is_list else item


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric column without nulls as an array; without a copy if it has one chunk."""
    whole = _whole(column)
    return np.from_dlpack(whole) if whole is not None else np.zeros(0, dtype=np.int64)


def dictionary_codes(column: pa.ChunkedArray, of: Mapping[str, int], other: int) -> np.ndarray:
    """The code of each string of a column, `other` for a string that is not in `of`."""
    whole = _whole(column)
    if whole is None:
        return np.zeros(0, dtype=np.int64)
    encoded = whole.dictionary_encode()
    table = np.array([of.get(text, other) for text in encoded.dictionary.to_pylist()], dtype=np.int64)
    return table[np.from_dlpack(encoded.indices)]


def rows_at(table: pa.Table, positions: np.ndarray) -> pa.Table:
    """These rows of a table, in this order."""
    buffer = pa.py_buffer(np.ascontiguousarray(positions, dtype=np.int64))
    return table.take(pa.Array.from_buffers(pa.int64(), len(positions), [None, buffer]))


def _whole(column: pa.ChunkedArray) -> pa.Array | None:
    """A column as one array, None if it has no rows."""
    if not len(column):
        return None
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole  # an older Arrow's
