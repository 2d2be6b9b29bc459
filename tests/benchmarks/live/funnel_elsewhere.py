"""The same funnel by retentioneering 5, run by an interpreter that has it: it is no dependency, and pins other packages.

`PYTHON funnel_elsewhere.py FILE STEP...` prints seconds from the Parquet file to the answer, `counted_s` of these for the
funnel alone, and the visitors per step. It knows no window. It would report its use over the network; that is turned off.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main(path: str, steps: list[str]) -> None:
    """Print the figures."""
    os.environ["RETENTIONEERING_NO_TRACK"] = "1"
    import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from retentioneering.eventstream import Eventstream  # type: ignore[import-not-found, unused-ignore]

    started = time.perf_counter()
    frame = pandas.read_parquet(path, columns=["visitor", "event", "time_us"])
    frame["time_us"] = pandas.to_datetime(frame["time_us"], unit="us")
    schema = {"path_cols": ["visitor"], "event_col": "event", "timestamp_col": "time_us"}
    stream = Eventstream(frame, schema)
    ready = time.perf_counter()
    found = stream.funnel_data(steps=steps)
    ended = time.perf_counter()
    print(json.dumps({"seconds": ended - started, "counted_s": ended - ready, "found": found}, default=str))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
