"""Networks and their weights: autoencoders, matchers, gender classifiers, checkpoints."""

from typing import TYPE_CHECKING

from privface.lazy import on_demand

if TYPE_CHECKING:
    from privface.models.autoencoders import SemiAdversarialAutoencoder
    from privface.models.checkpoint import SavedNetwork, load_network, save_network
    from privface.models.composites import RULES, EnsembleSan, FlowSan, Reader, Rule, Single
    from privface.models.family import VARIANTS, Autoencoder, AutoencoderConfig, variant
    from privface.models.inputs import require_unit_images, to_input
    from privface.models.loading import GenderProbe, Matcher, load_gender_probe, load_matcher
    from privface.models.networks import CompactResNet, Mlp
    from privface.models.privacynet import PrivacyNet
    from privface.models.protectable import Protectable
    from privface.models.protector import Protector
    from privface.models.protectors import load_protector
    from privface.models.san2018 import (
        LabelledProtector,
        Prototypes,
        San2018,
        San2018Protector,
        load_released,
        make_prototypes,
    )
else:
    __getattr__, __dir__ = on_demand(__name__, __file__)

__all__ = [
    "RULES",
    "VARIANTS",
    "Autoencoder",
    "AutoencoderConfig",
    "CompactResNet",
    "EnsembleSan",
    "FlowSan",
    "GenderProbe",
    "LabelledProtector",
    "Matcher",
    "Mlp",
    "PrivacyNet",
    "Protectable",
    "Protector",
    "Prototypes",
    "Reader",
    "Rule",
    "San2018",
    "San2018Protector",
    "SavedNetwork",
    "SemiAdversarialAutoencoder",
    "Single",
    "load_gender_probe",
    "load_matcher",
    "load_network",
    "load_protector",
    "load_released",
    "make_prototypes",
    "require_unit_images",
    "save_network",
    "to_input",
    "variant",
]
