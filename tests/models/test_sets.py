"""Groups of items against a loop."""

import torch

from models.sets import Groups


def test_batches_hold_exactly_the_items_of_their_sets() -> None:
    owner = torch.tensor([2, 0, 2, 4, 0, 2])  # sets 1 and 3 are empty
    groups = Groups.of(owner, 5)
    assert groups.starts.tolist() == [0, 2, 2, 5, 5, 6]
    for sets in ([0], [4, 2], [1, 2, 3], [3], [2, 0, 4, 1]):
        items, place = groups.batch(torch.tensor(sets))
        expected = [(i, k) for k, s in enumerate(sets) for i in range(len(owner)) if owner[i] == s]
        assert list(zip(items.tolist(), place.tolist(), strict=True)) == expected
