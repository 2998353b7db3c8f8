"""Sources of labelled images and of text, their local cache, and exact nested subsets of them."""

from hf_scaling.subsets.facts import OPENERS, SourceFacts, source_facts
from hf_scaling.subsets.overlap import count_overlap
from hf_scaling.subsets.selection import hold_out_validation, nested_subset
from hf_scaling.subsets.sources import Source, Split, open_source

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
