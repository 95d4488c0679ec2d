"""What sites send is averaged by hand's arithmetic, and what is wrong with it is found and named."""

import dataclasses

import numpy as np
import pytest

from models.federated_averaging import Update, average, is_better, losses_of, mean_loss, screen

GIVEN = {"w": np.zeros((2, 3), dtype=np.float32), "rows": np.ones((3, 2), dtype=np.float32), "fixed": np.ones(1)}


def update(site: str, moved: float, items: int = 10, owned: tuple[int, ...] = (10, 0, 0), **others: object) -> Update:
    state = {name: (values + moved).astype(np.float32) for name, values in GIVEN.items()}
    return dataclasses.replace(Update(site, "h", state, items, np.array(owned)), **others)  # type: ignore[arg-type]


def screened(*updates: Update) -> tuple[list[str], dict[str, str]]:
    kept, refused = screen(updates, GIVEN, settings="h", modalities=3)
    return [each.site for each in kept], refused


def test_weights_count_by_items_and_rows_by_who_owns_them() -> None:
    found = average(
        [update("a", 1.0, 10, (10, 0, 0)), update("b", 4.0, 30, (10, 20, 0))],
        GIVEN, rows=frozenset({"rows"}), fixed=frozenset({"fixed"}),
    )  # fmt: skip
    np.testing.assert_allclose(found["w"], (10 * 1 + 30 * 4) / 40)
    np.testing.assert_allclose(found["rows"], 1 + np.array([[2.5, 2.5], [4, 4], [0, 0]]))  # nobody has the third
    np.testing.assert_array_equal(found["fixed"], GIVEN["fixed"])
    assert found["w"].dtype == np.float32
    with pytest.raises(ValueError, match="no update"):
        average([], GIVEN, rows=frozenset(), fixed=frozenset())


def test_sound_updates_pass_in_the_order_of_their_names() -> None:
    assert screened(update("c", 1.0), update("a", 1.2), update("b", -3.0)) == (["a", "b", "c"], {})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (update("x", 1.0, settings="other"), "other settings (other, not h)"),
        (update("x", np.nan), "holds numbers that are not finite"),
        (update("x", 1.0, state={"w": GIVEN["w"]}), "other weights (fixed, rows)"),
        (update("x", 1.0, state={**GIVEN, "w": np.zeros(3)}), "w has the shape (3,), not (2, 3)"),
        (update("x", 1.0, items=0), "0 items"),
        (update("x", 1.0, owned=(1, -1, 0)), "[1, -1, 0] by modality"),
        (update("x", 1.0, owned=(1,)), "[1] by modality"),
        (update("x", 1.0, items=10**12), "1000000000000 items"),
        (update("x", 1.0, owned=(10**12, 0, 0)), "more than 10,000,000 items"),
        (update("x", 1.0, validation_items=10**12), "more than 10,000,000 items"),
        (update("x", 1.0, state={**GIVEN, "w": np.full((2, 3), "x")}), "w holds no floating point numbers"),
        (update("x", 1.0, state={**GIVEN, "w": [[0.0] * 3] * 2}), "w holds no floating point numbers"),
        (update("x", 100.0), "its weights moved 90.9 times as far"),
        (update("x", 1.0, validation_loss=np.inf), "its validation loss is not finite"),
    ],
)
def test_what_is_wrong_is_left_out_and_named(bad: Update, reason: str) -> None:
    kept, refused = screened(update("a", 1.0), update("b", 1.2), bad)
    assert kept == ["a", "b"]
    assert list(refused) == ["x"]
    assert reason in refused["x"]


def test_a_scaled_update_is_found_among_two_and_a_still_one_is_no_reason() -> None:
    assert screened(update("a", 1.0), update("x", 50.0))[0] == ["a"]
    kept, refused = screened(update("a", 1.0), update("b", 1.0), update("still", 0.0))
    assert kept == ["a", "b", "still"]
    assert screened(update("alone", 50.0)) == (["alone"], {})
    assert screened(update("a", 0.0), update("b", 0.0)) == (["a", "b"], {})
    assert "it sent two updates" in screened(update("a", 1.0), update("a", 1.0))[1]["a"]


def test_the_loss_is_over_the_items_of_those_that_have_any() -> None:
    some = [
        update("a", 0, validation_loss=1.0, validation_items=10),
        update("b", 0, validation_loss=2.0, validation_items=30),
        update("c", 0),
    ]
    assert mean_loss(losses_of(some), "abc") == pytest.approx(1.75)
    assert mean_loss(losses_of(some[2:]), "abc") is None


def test_weights_are_compared_by_the_sites_that_judged_both() -> None:
    best = {"easy": (0.2, 10), "hard": (0.9, 10)}
    assert not is_better({"easy": (0.3, 10)}, best)  # its mean is lower for want of the hard site alone
    assert is_better({"easy": (0.1, 10)}, best)
    assert is_better({"easy": (0.3, 10), "hard": (0.7, 10), "new": (5.0, 10)}, best)
    assert not is_better({"new": (0.0, 10)}, best)
