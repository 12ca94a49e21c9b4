"""Tables over result files, ours and the published code's, read by streaming."""

from eager.recap.collect import recap
from eager.recap.compare import Comparison, Difference, Row
from eager.recap.large import write_large
from eager.recap.machine import as_csv, as_json
from eager.recap.reading import Findings, RecapError
from eager.recap.tables import print_comparison

__all__ = [
    "Comparison",
    "Difference",
    "Findings",
    "RecapError",
    "Row",
    "as_csv",
    "as_json",
    "print_comparison",
    "recap",
    "write_large",
]
