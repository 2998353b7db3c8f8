"""Sources of labelled images and of text, their local cache, and exact nested subsets of them."""

from hf_scaling.data.facts import OPENERS, SourceFacts, source_facts
from hf_scaling.data.sampling import hold_out_validation, nested_subset
from hf_scaling.data.sources import Source, Split, count_overlap, open_source

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
