"""Tables made by an earlier version, which lack a column that rows have today."""

from collections.abc import Sequence

import lance
import pyarrow as pa

from schemas.errors import LakeError
from schemas.tables import ADDED_COLUMNS


def lacking(dataset: lance.LanceDataset, columns: Sequence[str]) -> list[str]:
    """Those of ``columns`` that a later version added and this table does not have yet; a row has none in them."""
    return [name for name in columns if name in ADDED_COLUMNS and name not in dataset.schema.names]


def add_lacking(dataset: lance.LanceDataset, schema: pa.Schema, where: str) -> None:
    """Gives the table the columns that were added since it was made, empty in every row.

    Raises LakeError where it lacks another column, since then it is no table of wamloom's.
    """
    absent = [name for name in schema.names if name not in dataset.schema.names]
    added = lacking(dataset, absent)
    if absent != added:
        strange = next(name for name in absent if name not in added)
        raise LakeError(
            f"the table has no column {strange!r}",
            where,
            "was it made by another version of wamloom? use that one, or ingest and encode into a new lake",
            "other_columns",
        )
    if added:
        dataset.add_columns([schema.field(name) for name in added])
