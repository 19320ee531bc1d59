"""Methods of training by name; what they share is in ``base``."""

from collections.abc import Mapping
from typing import Final

from privface.config import Settings, TrainSettings, check_settings
from privface.errors import ConfigError
from privface.pipeline.methods.base import Job, Method, Outcome
from privface.pipeline.methods.diverse import ENSEMBLE_SAN, FLOW_SAN
from privface.pipeline.methods.erased_code import ERASED_CODE
from privface.pipeline.methods.privacynet import PRIVACYNET
from privface.pipeline.methods.san import SAN
from privface.pipeline.methods.san2018 import SAN_2018

METHODS: Final[Mapping[str, Method]] = {
    method.name: method for method in (ERASED_CODE, SAN, SAN_2018, ENSEMBLE_SAN, FLOW_SAN, PRIVACYNET)
}
"""Every method by its name in a configuration."""


def find_method(name: str) -> Method:
    """A method by its name."""
    if name not in METHODS:
        raise ConfigError(
            f"There is no method {name!r}.",
            hint=f"Choose among {', '.join(METHODS)}; docs/methods.md says more.",
        )
    return METHODS[name]


def asked_method(settings: TrainSettings) -> tuple[Method, Settings]:
    """The method that settings name, and its own options.

    Raises:
        ConfigError: If there is no such method, or it does not take these options or a ``start``.
    """
    method = find_method(settings.method)
    options = check_settings(
        method.options, settings.method_options, where=f"method_options of {method.name}"
    )
    if settings.start is not None and not method.can_start:
        raise ConfigError(
            f"start={settings.start}: method {method.name} makes its networks itself.",
            hint="Leave start out.",
        )
    return method, options


__all__ = ["METHODS", "Job", "Method", "Outcome", "asked_method", "find_method"]
