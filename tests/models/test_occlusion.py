"""Occlusion on features: against leaving slices out one by one."""

import pytest
import torch

from models.occlusion import occlusion_map

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("slab", [1, 3, 7, 20])
def test_every_region_is_what_is_lost_without_it(slab: int) -> None:
    slices, weights, nothing = torch.randn(7, 5, 9, 8), torch.randn(5, 9, 8), torch.randn(5, 9, 8)

    def ask(feature_maps: torch.Tensor) -> torch.Tensor:
        return (feature_maps * weights).sum((1, 2, 3)).div(20).tanh()

    found = occlusion_map(slices, ask, slices_a_slab=slab, nothing=nothing)
    expected = torch.empty(-(-7 // slab), 9, 8)
    whole = slices.amax(0)
    for group, row, column in torch.cartesian_prod(*(torch.arange(n) for n in expected.shape)).tolist():
        left = slices[[s for s in range(7) if s // slab != group]][:, :, row, column]
        feature_map = whole.clone()
        feature_map[:, row, column] = left.amax(0) if len(left) else nothing[:, row, column]
        expected[group, row, column] = ask(whole[None])[0] - ask(feature_map[None])[0]
    torch.testing.assert_close(found, expected)


def test_what_the_answer_does_not_depend_on_is_zero() -> None:
    slices = torch.randn(4, 3, 5, 5)
    found = occlusion_map(
        slices, lambda feature_maps: feature_maps[:, :, 2, 3].sum(1), slices_a_slab=2, nothing=torch.zeros(3, 5, 5)
    )
    elsewhere = torch.ones(5, 5, dtype=torch.bool)
    elsewhere[2, 3] = False
    assert not found[:, elsewhere].any()
    assert found[:, 2, 3].abs().sum() > 0
