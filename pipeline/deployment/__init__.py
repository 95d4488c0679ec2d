"""From a finished run to a model for new patients: bundle, signature, model card, calibration set, predictor."""
