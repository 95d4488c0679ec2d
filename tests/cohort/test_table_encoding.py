"""What a table becomes: against scikit-learn and NumPy, and what must not reach it."""

import numpy as np
import pytest
from scipy.fft import dct
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cohort.table_encoding import Column, TableEncoder, TooWideError, directions

CHANNELS = 32


def members(random: np.random.Generator, count: int = 60) -> list[dict[str, float | str | None]]:
    return [
        {
            "mmse": None if random.random() < 0.2 else float(random.normal(25, 4)),
            "volume": float(random.normal(1500, 100)),
            "cluster": None if random.random() < 0.3 else str(random.choice(["K1", "K2", "K3"], p=[0.7, 0.2, 0.1])),
        }
        for _ in range(count)
    ]


@pytest.fixture
def training() -> list[dict[str, float | str | None]]:
    return members(np.random.default_rng(0))


def test_numbers_are_standardised_with_those_given() -> None:
    values = [1.0, None, 4.0, 10.0, None]
    block = Column.fit("x", values).encode(values)
    given = np.array([[1.0], [4.0], [10.0]])
    np.testing.assert_allclose(block[[0, 2, 3], 0], StandardScaler().fit_transform(given)[:, 0])
    np.testing.assert_allclose(block[[1, 4]], [[0, 0.6], [0, 0.6]])  # the mean, and the indicator less its share
    np.testing.assert_allclose(block[[0, 2, 3], 1], -0.4)


def test_categories_bring_the_variance_of_one_number_together() -> None:
    values = ["b", "a", "b", "c", "b", "a"]
    block = Column.fit("x", values).encode(values)[:, :-1]
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(np.array(values)[:, None])
    centred = one_hot - one_hot.mean(0)
    np.testing.assert_allclose(block, centred / np.sqrt(centred.var(0).sum()))
    assert block.var(0).sum() == pytest.approx(1)


def test_an_indicator_that_training_could_not_learn_stays_0() -> None:
    assert not Column.fit("x", [1.0, 2.0]).encode([None]).any()  # none missing in training
    assert not Column.fit("x", [None, None]).encode([3.0, None, "new"]).any()  # none given
    assert Column.fit("x", [1.0, 2.0, None]).encode([None])[0, -1] > 0


def test_a_column_with_one_value_says_only_whether_it_is_given() -> None:
    for value, other in ((7.0, 9.0), ("a", "b")):
        block = Column.fit("x", [value, value, None]).encode([value, other if value == 7.0 else value, None])
        assert not block[:, :-1].any()
        assert block[0, -1] == block[1, -1] < 0 < block[2, -1]


def test_a_new_category_counts_as_missing_and_another_spelling_does_not() -> None:
    encoder = TableEncoder.fit([{"x": "K1"}, {"x": "K2"}, {"x": None}])
    first, new, missing, spelt = encoder.encode([{"x": "K1"}, {"x": "K9"}, {"x": None}, {"x": "k1"}], CHANNELS)
    np.testing.assert_array_equal(new, missing)
    np.testing.assert_array_equal(spelt, first)
    assert [encoder.unseen({"x": value}) for value in ("K9", "k1", None)] == [{"x": "K9"}, {}, {}]


def test_the_mean_square_is_about_1_and_distances_are_those_of_the_blocks(
    training: list[dict[str, float | str | None]],
) -> None:
    encoder = TableEncoder.fit(training)
    vectors = encoder.encode(training, CHANNELS).astype(np.float64)
    blocks = np.concatenate([c.encode([m[c.name] for m in training]) for c in encoder.columns], axis=1)
    np.testing.assert_allclose(vectors.mean(0), 0, atol=0.2)  # numbers that are missing shift the mean of none
    assert 0.8 < np.square(vectors).mean() < 1.3
    between = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    expected = np.linalg.norm(blocks[:, None] - blocks[None], axis=2) * np.sqrt(CHANNELS / 3)
    np.testing.assert_allclose(between, expected, rtol=1e-4, atol=1e-4)


def test_the_directions_are_those_of_scipy_and_at_right_angles() -> None:
    rows = directions(8, 8)
    np.testing.assert_allclose(rows @ rows.T, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(rows, np.roll(dct(np.eye(8), norm="ortho", axis=0), -1, axis=0), atol=1e-12)


def test_others_do_not_change_the_code(training: list[dict[str, float | str | None]]) -> None:
    encoder = TableEncoder.fit(training)
    alone = encoder.encode(training[:1], CHANNELS)
    together = encoder.encode([*training[:1], *members(np.random.default_rng(1))], CHANNELS)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-6)


def test_it_travels_as_plain_values(training: list[dict[str, float | str | None]]) -> None:
    encoder = TableEncoder.fit(training)
    assert TableEncoder.from_json(encoder.to_json()) == encoder


def test_a_table_wider_than_the_feature_map_is_refused() -> None:
    values = [{"id": f"{number}"} for number in range(20)]
    with pytest.raises(TooWideError, match="its columns become 21 numbers .* more than the 16 channels"):
        TableEncoder.fit(values).encode(values, 16)
