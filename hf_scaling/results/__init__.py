"""The row schema and `ResultsTable`: where the measuring half and the deciding half meet.

Importing this loads neither pyarrow nor pandas nor datasets; they come when a table is made.
"""

from hf_scaling.results.schema import INCIDENTAL, MEANINGS, SCHEMA, SCHEMA_VERSION, new_row, same_values
from hf_scaling.results.table import ResultsTable

__all__ = ["INCIDENTAL", "MEANINGS", "SCHEMA", "SCHEMA_VERSION", "ResultsTable", "new_row", "same_values"]
