"""Reads the ticks of a recording as a person would: `python3 read_recording.py FOLDER` prints the number of rows and the columns.

Exits with 77 where pyarrow is not installed.
"""

import sys

try:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
except ImportError as error:
    print(error)
    sys.exit(77)

ticks = ds.dataset(sys.argv[1] + "/ticks", format="parquet", partitioning="hive").to_table()
assert ticks.num_rows > 0, "no rows"
assert "date" in ticks.column_names, "the folder's date is a column"
assert set(ticks["endpoint_name"].to_pylist()) == {"pod-1", "pod-2", "pod-3", "pod-4"}
assert set(ticks["backend"].to_pylist()) == {"shop/cart:80"}
assert ticks["guard"].type.value_type == "string", ticks["guard"].type
shares = ticks.group_by("tick").aggregate([("weight_applied", "sum")])["weight_applied_sum"]
assert pc.all(pc.less(pc.abs(pc.subtract(shares, 1.0)), 1e-6)).as_py(), "the applied shares of a tick sum to 1"
print(ticks.num_rows, "rows:", ", ".join(ticks.column_names))
