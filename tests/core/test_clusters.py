"""Groups of tokens, and what their members say together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atedm_core.dit.clusters import Clusters, cluster_tokens


def four_quarters() -> Clusters:
    """A 6 x 6 grid whose quarters are far apart in feature space, in as many clusters."""
    row, column = torch.arange(36) // 6, torch.arange(36) % 6
    features = torch.stack((row // 3 * 100.0, column // 3 * 100.0), dim=-1)
    return cluster_tokens(features.unsqueeze(0), (6, 6), 4)


def test_quarters_of_a_picture_are_told_apart():
    labels = four_quarters().labels.view(6, 6)
    quarters = [labels[:3, :3], labels[:3, 3:], labels[3:, :3], labels[3:, 3:]]
    assert all(quarter.unique().numel() == 1 for quarter in quarters)
    assert len({int(quarter[0, 0]) for quarter in quarters}) == 4


def test_clusters_touch_across_edges_and_not_across_corners():
    clusters = four_quarters()
    labels = clusters.labels.view(6, 6)
    upper_left, upper_right, lower_right = int(labels[0, 0]), int(labels[0, 5]), int(labels[5, 5])
    assert clusters.neighbours[0, upper_left, upper_right]
    assert not clusters.neighbours[0, upper_left, lower_right]
    assert clusters.neighbours[0].diagonal().all()


def test_the_maximum_keeps_its_sign():
    clusters = four_quarters()
    values = -torch.arange(1.0, 37.0).view(1, 36, 1)
    own = int(clusters.labels[0, 0])
    assert clusters.maximum(values)[0, own, 0] == -1.0


def test_pooling_is_twice_the_mean_and_the_maximum_over_a_cluster_and_its_neighbours():
    clusters = four_quarters()
    labels = clusters.labels.view(6, 6)
    vectors = torch.zeros(1, 4, 1)
    for value, (y, x) in zip((1.0, 2.0, 4.0, 50.0), ((0, 0), (0, 5), (5, 0), (5, 5)), strict=True):
        vectors[0, labels[y, x]] = value
    assert clusters.pooled(vectors)[0, labels[0, 0], 0] == pytest.approx(2 * (1 + 2 + 4) / 3 + 4)


def test_empty_clusters_count_for_nothing():
    clusters = cluster_tokens(torch.zeros(1, 9, 2), (3, 3), 4)
    assert clusters.sizes[0].tolist() == [9, 0, 0, 0]
    full = int(clusters.labels[0, 0])
    vectors = torch.full((1, 4, 1), 7.0)
    vectors[0, full] = 1.0
    assert clusters.pooled(vectors)[0, full, 0] == pytest.approx(2 * 1 + 1)
    assert clusters.maximum(torch.full((1, 9, 1), 3.0))[0].flatten().tolist() == [3.0, 0.0, 0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 30), st.integers(1, 3), st.integers(0, 99))
def test_every_token_is_in_one_cluster_and_near_no_other_centre(height, width, count, images, seed):
    features = torch.randn(images, height * width, 3, generator=torch.Generator().manual_seed(seed))
    clusters = cluster_tokens(features, (height, width), count)
    assert clusters.members.shape == (images, height * width, min(count, height * width))
    assert (clusters.members.sum(dim=-1) == 1).all()
    assert (clusters.sizes.sum(dim=-1) == height * width).all()
    assert torch.equal(clusters.neighbours, clusters.neighbours.transpose(1, 2))


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="9 tokens of a 2 x 4 grid"):
        cluster_tokens(torch.zeros(1, 9, 2), (2, 4), 3)
