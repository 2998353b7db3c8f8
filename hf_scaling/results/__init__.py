"""The results table: what the measuring half writes and the deciding half reads.

Importing this loads neither pyarrow nor pandas nor datasets; they are loaded when a table is created.
"""

from hf_scaling.results.imports import Imported, import_results
from hf_scaling.results.schema import INCIDENTAL, MEANINGS, SCHEMA, SCHEMA_VERSION, new_row, same_values
from hf_scaling.results.table import ResultsTable

__all__ = [
    "INCIDENTAL",
    "MEANINGS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Imported",
    "ResultsTable",
    "import_results",
    "new_row",
    "same_values",
]
