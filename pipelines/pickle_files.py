"""Pickles for trainers that read nothing else. Nothing here opens one, since that runs what is in it.

Their few instructions are written one by one, so that nothing but the numbers given can come into them.
"""

from collections.abc import Sequence

import numpy as np


def pickled_arrays(arrays: Sequence[np.ndarray]) -> bytes:
    """A pickle of a list of float32 arrays of one or two dimensions; equal values give equal bytes.

    Each is ``numpy.ndarray(shape, "<f4", bytes)``, which gives an array that cannot be written to.
    """
    parts = [b"\x80\x04]("]  # protocol 4, an empty list, and the mark of its items
    for array in arrays:
        data = np.ascontiguousarray(array, dtype="<f4").tobytes()
        shape = b"".join(b"J" + size.to_bytes(4, "little", signed=True) for size in array.shape)
        end = {1: b"\x85", 2: b"\x86"}[array.ndim]  # a tuple of so many
        parts += [b"cnumpy\nndarray\n", shape, end, b"X", (3).to_bytes(4, "little"), b"<f4"]
        parts += [b"B", len(data).to_bytes(4, "little"), data, b"\x87R"]  # called with these three
    return b"".join([*parts, b"e."])
