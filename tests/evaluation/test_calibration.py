"""Temperature scaling against SciPy's softmax and optimiser, and against temperatures that are known."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from evaluation.calibration import HIGHEST, apply_temperature, calibration_error, fit_temperature, log_loss


def drawn(count: int, *, sharpness: float, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpness` times too large, and classes drawn from what they should have been."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 1.5, (count, classes))
    truth = np.array([random.choice(classes, p=p) for p in softmax(honest, axis=1)])
    return sharpness * honest, truth


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.5])
def test_applied_to_probabilities_it_is_softmax_of_scaled_logits(temperature: float) -> None:
    logits, _ = drawn(50, sharpness=4)
    expected = softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(apply_temperature(softmax(logits, axis=1), temperature), expected, atol=1e-12)


def test_decisions_stay_and_zero_stays_zero() -> None:
    p = np.array([[0.0, 0.3, 0.7], [0.5, 0.4, 0.1]])
    for temperature in (0.1, 3.0):
        changed = apply_temperature(p, temperature)
        np.testing.assert_array_equal(changed.argmax(1), p.argmax(1))
        assert changed[0, 0] == 0
        np.testing.assert_allclose(changed.sum(1), 1)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_fitted_temperature_is_the_optimum_and_the_true_one(sharpness: float) -> None:
    logits, truth = drawn(4000, sharpness=sharpness)

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, axis=1)[np.arange(len(truth)), truth].mean())

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-10})
    fitted = fit_temperature(softmax(logits, axis=1), truth)
    assert fitted.value == pytest.approx(best.x, rel=1e-5)
    assert fitted.value == pytest.approx(sharpness, rel=0.08)
    assert fitted.nll_before == pytest.approx(loss(1.0))
    assert fitted.nll_after == pytest.approx(best.fun)
    assert (fitted.n, fitted.reason) == (4000, "")


def test_one_stays_one_where_the_data_cannot_say() -> None:
    sure = np.array([[0.9, 0.1], [0.2, 0.8]] * 10)
    few = fit_temperature(sure[:8], [0, 1] * 4)
    assert (few.value, few.reason) == (1.0, "8 observations, at least 10 needed")
    alike = fit_temperature(sure, [0] * 20)
    assert (alike.value, alike.reason) == (1.0, "all observations are of one class")
    right = fit_temperature(sure, [0, 1] * 10)
    assert (right.value, right.nll_after) == (1.0, right.nll_before)
    assert "no observation was decided wrong" in right.reason
    none = fit_temperature(np.zeros((0, 2)), [])
    assert none.value == 1.0
    assert np.isnan(none.nll_before)


def test_probabilities_that_mislead_are_flattened_with_a_reason() -> None:
    sure = np.array([[0.9, 0.1], [0.2, 0.8]] * 10)
    fitted = fit_temperature(sure, [1, 0] * 10)
    assert fitted.value == HIGHEST
    assert "say nothing" in fitted.reason
    assert fitted.nll_after < fitted.nll_before


def test_timid_probabilities_are_sharpened_no_further_than_the_bound() -> None:
    timid = np.array([[0.501, 0.499]] * 99 + [[0.499, 0.501]])
    fitted = fit_temperature(timid, [0] * 99 + [0])
    assert fitted.reason == "all observations are of one class"
    fitted = fit_temperature(timid, [0] * 98 + [1, 1])
    assert fitted.value == 0.05
    assert "below 0.05" in fitted.reason


def test_log_loss_of_an_impossible_truth_is_infinite() -> None:
    assert log_loss([[1.0, 0.0]], [1]) == np.inf
    assert log_loss([[0.25, 0.75], [0.5, 0.5]], [1, 0]) == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_nonsense_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        apply_temperature([[0.5, 0.5]], temperature)


def test_the_calibration_error_equals_bins_worked_out_by_hand() -> None:
    positive = np.array([0.12, 0.18, 0.55, 0.57, 0.59, 0.96, 1.0])
    truth = [0, 1, 1, 1, 0, 1, 0]  # .1-.2 says .15, half are ill; .5-.6 says .57, 2 of 3; the last says .98, half
    expected = (2 * abs(0.15 - 0.5) + 3 * abs(0.57 - 2 / 3) + 2 * abs(0.98 - 0.5)) / 7
    assert calibration_error(np.stack([1 - positive, positive], 1), truth) == pytest.approx(expected)
    assert calibration_error([[0.85, 0.15], [0.15, 0.85]], [1, 1]) == pytest.approx((0.85 + 0.15) / 2)
    assert np.isnan(calibration_error(np.zeros((0, 2)), []))


def test_the_calibration_error_of_three_classes_is_about_the_largest_probability() -> None:
    probabilities = [[0.6, 0.3, 0.1], [0.1, 0.65, 0.25], [0.2, 0.2, 0.6], [0.3, 0.31, 0.39]]
    expected = (3 * abs((0.6 + 0.65 + 0.6) / 3 - 1 / 3) + abs(0.39 - 1)) / 4  # one of three right, and one of one
    assert calibration_error(probabilities, [0, 2, 1, 2]) == pytest.approx(expected)


def test_frequencies_that_are_as_said_have_no_calibration_error() -> None:
    positive = np.repeat([0.25, 0.75], 40)
    truth = np.concatenate([np.arange(40) < 10, np.arange(40) < 30]).astype(int)
    assert calibration_error(np.stack([1 - positive, positive], 1), truth) == 0
    assert calibration_error(np.stack([positive, 1 - positive], 1), truth) == pytest.approx(0.5)
