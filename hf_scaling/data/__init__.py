"""Sources of labelled images and of text, their local cache, and exact nested subsets of them."""

from hf_scaling.data.sampling import hold_out_validation, nested_subset
from hf_scaling.data.sources import OPENERS, Source, SourceFacts, Split, count_overlap, open_source, source_facts

__all__ = [
    "OPENERS",
    "Source",
    "SourceFacts",
    "Split",
    "count_overlap",
    "hold_out_validation",
    "nested_subset",
    "open_source",
    "source_facts",
]
