"""Made-up predictions and the content of a report."""

from helpers.report_data import predictions, predictions_maker, report_data  # noqa: F401 - fixtures
