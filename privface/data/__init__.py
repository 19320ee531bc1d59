"""Labelled face sets: sources, person-disjoint splits, pairs, balanced orders, loading, generated faces."""

from privface.data.dataset import LoadedFaces, Prepare, load_faces
from privface.data.embeddings import (
    TABLE_SUFFIXES,
    EmbeddingTable,
    LabelFile,
    gender_codes,
    read_embeddings,
    stream_embeddings,
)
from privface.data.pairs import FoldedPairs, read_pairs_file
from privface.data.sampling import balanced_indices
from privface.data.sources import (
    SOURCE_KINDS,
    from_celeba,
    from_folder,
    from_lfw,
    from_table,
    from_utkface,
    names_kind,
    open_source,
    read_genders,
    require_both_genders,
)
from privface.data.splits import person_bucket, person_key, require_disjoint, split_people
from privface.data.synthetic import GeneratedFaces, generate_faces, write_faces

__all__ = [
    "SOURCE_KINDS",
    "TABLE_SUFFIXES",
    "EmbeddingTable",
    "FoldedPairs",
    "GeneratedFaces",
    "LabelFile",
    "LoadedFaces",
    "Prepare",
    "balanced_indices",
    "from_celeba",
    "from_folder",
    "from_lfw",
    "from_table",
    "from_utkface",
    "gender_codes",
    "generate_faces",
    "load_faces",
    "names_kind",
    "open_source",
    "person_bucket",
    "person_key",
    "read_embeddings",
    "read_genders",
    "read_pairs_file",
    "require_both_genders",
    "require_disjoint",
    "split_people",
    "stream_embeddings",
    "write_faces",
]
