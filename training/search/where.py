"""Which vectors of an index may be found: those whose samples fit an SQL condition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.catalog import check_condition, confine, open_catalog, sql_errors
from pipeline.records.removals import removed_uids
from pipeline.storage.output import is_output
from pipeline.storage.place import Place
from training.errors import FeaturesError

__all__ = ["rows_there", "rows_where"]


def rows_there(source: Place, rows: pa.Table) -> npt.NDArray[np.int64] | None:
    """int64[m], ascending: the places of `rows` (see index_files) whose uid was not removed from the data set `source`
    since it was embedded; None where nothing was."""
    places = [place for place in (source, source.parent) if is_output(place)]
    if (source / "manifest.json").is_file():  # shards that were copied alone
        places.append(source)
    removed = frozenset[bytes]().union(*map(removed_uids, places))
    if not removed:
        return None
    uids = rows["uid"].cast(pa.binary())
    gone = pc.is_in(uids, pa.array(sorted(removed), pa.binary())).to_numpy()
    return np.flatnonzero(~gone) if gone.any() else None


def rows_where(source: Place, condition: str, rows: pa.Table) -> npt.NDArray[np.int64]:
    """int64[m], ascending: the places of `rows` (see index_files) whose uid is of a sample of the data set `source`
    that fits `condition`, over the columns of its view `samples`.

    Raises FeaturesError where `source` is no data set of ours, SqlError for a wrong condition.
    """
    output = source if is_output(source) else source.parent
    if not is_output(output):
        raise FeaturesError(f"--where needs a data set that `openwit shards` made; {source} is none")
    query = f"SELECT uid FROM samples WHERE (\n{condition}\n)"  # the line break ends a comment in the condition
    with open_catalog(output, query) as database:
        confine(database, [output])
        with sql_errors("--where"):
            check_condition(database, condition, query)
            places = pa.array(np.arange(len(rows)))
            database.register("indexed", rows.select(["uid"]).append_column("place", places))
            found = database.execute(f"SELECT place FROM indexed SEMI JOIN ({query}) USING (uid)").fetchnumpy()
    return np.sort(np.asarray(found["place"], np.int64))
