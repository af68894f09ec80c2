"""Reports: records become tables, plots and one HTML page. Knows nothing of torch.

from selfpatch.reports import compare, load, style

load("work_dirs/records")  # a row per record and metric
style(compare("work_dirs/records", baseline="DINO"))  # a row per method and main metric: difference, interval, verdict
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler


def load(records: str | Path = "work_dirs/records") -> "pd.DataFrame":
    """The records of a folder as one long table, a row per record and metric; of repeated evaluations the newest.

    Raises:
        UserError: there is none, or one is broken.
    """
    from selfpatch.reports.frames import load_records, newest_records, records_frame

    return records_frame(newest_records(load_records(records))[0])


def compare(
    records: str | Path = "work_dirs/records", baseline: str = "DINO", resamples: int | None = None, seed: int = 0
) -> "pd.DataFrame":
    """Each method against the baseline by the paired bootstrap: a row per method, data set, protocol and main metric.

    Args:
        resamples: draws; None: 10,000, of AP 1,000.

    Returns:
        what tells rows apart, ``delta`` with its 95 % interval ``low`` … ``high`` in points, the share of resamples
        ``above_zero`` and the ``verdict``. What holds no per-unit values is left out.

    Raises:
        UserError: there are no records, or one is broken.
    """
    from selfpatch.reports.bootstrap import compare_pairs
    from selfpatch.reports.exports import bootstrap_frame
    from selfpatch.reports.frames import load_records, newest_records, scored_records
    from selfpatch.reports.tables import comparison_tables, pairs

    kept, _ = scored_records(newest_records(load_records(records))[0])
    tables = comparison_tables(kept, baseline)
    for table in tables:
        table.differences, _ = compare_pairs(pairs(table), resamples, seed)
    return bootstrap_frame(tables)


def style(compared: "pd.DataFrame") -> "Styler":
    """What :func:`compare` gives, as a notebook shows it: signs, rounded figures, verdicts in colour."""
    from selfpatch.reports.exports import styled

    return styled(compared)
