"""The composition root: fit, protect, audit and report in one call each."""

from privface.pipeline.faces import load_aligned, open_data
from privface.pipeline.fit import read_provenance, train
from privface.pipeline.inspect import AuditOptions, audit, audit_protector, embed, write_results

__all__ = [
    "AuditOptions",
    "audit",
    "audit_protector",
    "embed",
    "load_aligned",
    "open_data",
    "read_provenance",
    "train",
    "write_results",
]
