"""Masked pretraining of φ: it learns what modalities share, from visible scans alone."""

import dataclasses

import pytest
import torch

from models.extractor import UniversalExtractor
from models.masked import MaskedNetwork, MaskedSets, pretrain_masked
from models.settings import Training


def sets(count: int = 120, *, shared: bool = True) -> MaskedSets:
    """Three modalities of 6 channels whose first two scores are the patient's own; a third of the scans is missing."""
    random = torch.Generator().manual_seed(0)
    own = torch.randn(count, 2, generator=random)
    maps = torch.randn(count, 3, 6, 1, 1, generator=random) * 0.3
    scores = own[:, None].expand(-1, 3, -1) if shared else torch.randn(count, 3, 2, generator=random)
    maps[:, :, :2, 0, 0] += scores
    has = torch.rand(count, 3, generator=random) > 0.3
    has[:, 0] |= ~has.any(dim=1)
    return MaskedSets(
        maps * has[..., None, None, None], has, scores * has[..., None], torch.arange(80), torch.arange(80, count)
    )


def network() -> MaskedNetwork:
    torch.manual_seed(0)
    return MaskedNetwork(UniversalExtractor(3, (6, 1, 1)), 3, 2)


def test_it_learns_what_is_shared_and_nothing_where_nothing_is() -> None:
    losses = []
    for shared in (True, False):
        given = sets(shared=shared)
        history = pretrain_masked(network(), given, Training(40, 16, 1e-2, seed=0))
        losses.append(min(float(row["validation_loss"]) for row in history.rows))
    assert losses[0] < 0.4
    assert losses[1] > 0.7


def test_the_hidden_scan_is_not_seen() -> None:
    given, model = sets(), network()
    hidden = torch.zeros(len(given.has), dtype=torch.int64)
    visible = given.has.clone()
    visible[:, 0] = False
    before = model(given.feature_maps, visible, hidden)
    changed = given.feature_maps.clone()
    changed[:, 0] += 5
    torch.testing.assert_close(model(changed, visible, hidden), before)
    assert not torch.equal(model(changed, given.has, hidden), model(given.feature_maps, given.has, hidden))


def test_codes_are_means_of_phi_over_the_scans_that_there_are() -> None:
    given, model = sets(), network()
    row = int(given.has.sum(dim=1).argmax())
    found = model.codes(given.feature_maps, given.has)
    seen = given.has[row].nonzero().flatten()
    phi = model.extractor(given.feature_maps[row, seen], seen).mean(dim=(2, 3))
    torch.testing.assert_close(found[row], phi.mean(dim=0))
    assert not model.codes(given.feature_maps, torch.zeros_like(given.has)).any()


def test_single_scans_leave_nothing_to_hide() -> None:
    given = sets()
    alone = torch.zeros_like(given.has)
    alone[:, 1] = True
    with pytest.raises(ValueError, match="nothing to train on"):
        pretrain_masked(network(), dataclasses.replace(given, has=alone), Training(2, 16))
