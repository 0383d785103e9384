"""Figures of the report, against numbers worked out by hand."""

import numpy as np
import pytest

from mlaas4hep_tf.runs.plots import density, plot_scores
from mlaas4hep_tf.train import Evaluation


def test_weighted_density():
    values, weights = np.array([0.1, 0.2, 0.7]), np.array([1.0, 3.0, 4.0])
    height, error = density(values, weights, [0.0, 0.5, 1.0])
    assert height.tolist() == [1.0, 1.0]  # 4 of 8, and 4 of 8, over a width of 1/2
    assert error == pytest.approx([np.sqrt(1 + 9) / 4, 4 / 4])


def test_no_events_are_no_error():
    height, error = density(np.zeros(0), np.zeros(0), [0.0, 0.5, 1.0])
    assert height.tolist() == error.tolist() == [0.0, 0.0]


def test_the_histograms_of_scores_weigh_events():
    labels, scores = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.9, 0.1, 0.1, 0.2])
    result = Evaluation(labels, scores, np.array([3.0, 1.0, 1.0, 1.0]))
    axes = plot_scores(result, result).axes[0]
    signal = [patch.get_height() for patch in axes.containers[0]]
    assert max(signal) == pytest.approx(3 * min(height for height in signal if height > 0))
