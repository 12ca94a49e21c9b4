"""Tables over the results in folders, ours and the published code's, read by streaming."""

from eager.recap.collect import recap
from eager.recap.compare import Comparison
from eager.recap.export import as_csv, as_json
from eager.recap.tables import print_comparison

__all__ = ["Comparison", "as_csv", "as_json", "print_comparison", "recap"]
