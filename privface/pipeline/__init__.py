"""The composition root: fit, protect, audit and report in one call each."""

from typing import TYPE_CHECKING

from privface.lazy import on_demand

if TYPE_CHECKING:
    from privface.options import AuditOptions
    from privface.pipeline.battery import build_auditor, self_test
    from privface.pipeline.faces import load_aligned, open_data
    from privface.pipeline.fit import train
    from privface.pipeline.inspect import audit, audit_data, audit_protector, embed, write_results
    from privface.pipeline.provenance import read_provenance
    from privface.pipeline.review import compare_audits
    from privface.pipeline.tables import audit_tables, pair_tables
else:
    __getattr__, __dir__ = on_demand(__name__, __file__)

__all__ = [
    "AuditOptions",
    "audit",
    "audit_data",
    "audit_protector",
    "audit_tables",
    "build_auditor",
    "compare_audits",
    "embed",
    "load_aligned",
    "open_data",
    "pair_tables",
    "read_provenance",
    "self_test",
    "train",
    "write_results",
]
