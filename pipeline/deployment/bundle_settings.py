"""The settings in an exported model."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.provenance import changes_results
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.bundle_layout import SETTINGS, BundleError, shown
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.preprocess import PreprocessConfig


def settings_of_model(folder: Path, trusted: Sequence[Path] = ()) -> Path:
    """Return the settings file of an exported model: how scans are prepared, and nothing else.

    Args:
        folder: of the model.
        trusted: public keys, or folders of them, one of which must have signed it.

    Raises:
        InputError: the model is damaged or not signed so, or it sets more than that, such as where results are written.
    """
    bundle = Bundle.read(folder, trusted)
    for name, config in (("preprocess", PreprocessConfig), ("features", FeaturesConfig)):
        own = {key for key, field in config.model_fields.items() if changes_results(field)}
        if unknown := sorted(bundle.settings[name].keys() - own - {"weights"}):
            raise BundleError(
                f"the model {folder} sets {name}.{shown(unknown[0])}, which is not a model's to set: limits are "
                "yours. Do not trust it"
            )
    return bundle.folder / SETTINGS
