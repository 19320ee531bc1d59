"""Section: whom and what was audited, with which settings and libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privface.audit.attacks import library_versions
from privface.audit.matching import enrolled
from privface.audit.subjects import AuditData, EmbeddingData

if TYPE_CHECKING:
    from privface.audit.context import Context, Named


def run(context: Context) -> dict[str, Any]:
    """``mode``, ``data`` and ``provenance``."""
    images = isinstance(context.data, AuditData)
    mode = "images" if images else "embeddings"
    return {"mode": mode, "data": _data(context), "provenance": _provenance(context)}


def _data(context: Context) -> dict[str, Any]:
    data, people = context.data, context.people
    names = data.identities
    sides: list[tuple[NDArray[Any], NDArray[Any]]]
    if isinstance(data, AuditData):
        sides = [(data.original, data.protected)]
        ok = (data.enrolled_original, data.enrolled_protected)
    else:
        sides = list(data.embeddings.values())
        ok = (enrolled(sides[0][0]), enrolled(sides[0][1]))
    parts = {"train": people.train, "val": people.val, "test": people.test}
    return {
        "name": data.name,
        "images": len(data),
        "people": len(np.unique(names)),
        "female": int((data.genders == 0).sum()),
        "male": int((data.genders == 1).sum()),
        "female_people": len(np.unique(names[data.genders == 0])),
        "male_people": len(np.unique(names[data.genders == 1])),
        "enrolled_original": int(ok[0].sum()),
        "enrolled_protected": int(ok[1].sum()),
        "attacker_people": {t: len(np.unique(context.whole.identities[part])) for t, part in parts.items()},
        "original_fingerprint": data.digest(*(side[0] for side in sides)),
        "fingerprint": data.digest(*(array for side in sides for array in side)),
    }


def _provenance(context: Context) -> dict[str, Any]:
    data, settings, versions = context.data, context.settings, library_versions()
    numbers = ("resamples", "batch_size", "max_impostors", "max_leakage", "max_tmr_loss")
    said: dict[str, Any] = {
        **{name: getattr(settings, name) for name in numbers},
        **{name: list(getattr(settings, name)) for name in ("shares", "set_sizes", "label_budgets")},
        "level": context.params.level,
        "image_probes": [probe.name for probe in settings.attackers("image")],
        "embedding_probes": [probe.name for probe in settings.attackers("embedding")],
        "image_recoverers": [r.name for r in settings.image_recoverers],
        "embedding_recoverers": [r.name for r in settings.embedding_recoverers],
        "excluded_people": len(settings.exclude_people),
    }
    if settings.attributes:
        said["attributes"] = [attribute.text for attribute in settings.attributes]
    if isinstance(data, AuditData) and data.draws is not None:
        draws = settings.averaging.of(data.draws.count)
        said["averaging"] = {"draws": draws, "probes": settings.averaging.probes}
    if data.attackers is not None:
        said["attackers"] = {"name": data.attackers.name, "images": len(data.attackers)}
    matchers = [_model(matcher) for matcher in settings.matchers]
    if isinstance(data, EmbeddingData):
        none = {"fingerprint": None, "weights_sha256": None}
        matchers = [{"name": n, "seen": data.seen.get(n), **none} for n in data.embeddings]
    return {
        "privface": versions.pop("privface"),
        "libraries": versions,
        "seed": settings.seed,
        "settings": said,
        "matchers": matchers,
        "probes": [_model(probe) for probe in settings.frozen_probes],
    }


def _model(model: Named) -> dict[str, Any]:
    """What is said of a model; models of others need not know the hash of their weights, nor where they compute."""
    device = getattr(model, "device", None)
    return {
        "name": model.name,
        "seen": model.seen,
        "fingerprint": model.fingerprint,
        "weights_sha256": getattr(model, "weights_sha256", None),
        **({"device": str(device)} if device else {}),
    }
