"""Figures of the report, against numbers worked out by hand."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from mlaas4hep_tf.runs.plots import calibration, colors, density, plot_reweighted, plot_scores
from mlaas4hep_tf.tasks import Classes
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


def test_calibration_is_the_share_of_signal_in_bins_of_the_score():
    labels = np.array([1.0, 0, 0, 0] * 10 + [1.0, 1, 1, 0] * 5 + [1.0])
    scores = np.array([0.22] * 40 + [0.75] * 20 + [0.95])  # one event alone tells nothing
    told, share, error = calibration(Evaluation(labels, scores, np.ones(61)))
    assert told == pytest.approx([0.22, 0.75])
    assert share == pytest.approx([0.25, 0.75])
    assert error == pytest.approx([np.sqrt(0.25 * 0.75 / 40), np.sqrt(0.25 * 0.75 / 20)])


def test_a_class_has_one_colour_in_all_figures():
    classes = Classes(("tt", "qcd", "ttH"), signal=2)
    shares = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]
    found = {"branches": {"ht": {"edges": [0, 1, 2], "before": shares, "after": [[1, 1]] * 3}}}
    figure = plot_reweighted(found, classes)
    shown = {text.get_text(): line.get_color() for text, line in
             zip(figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=True)}  # fmt: skip
    assert [*shown] == ["ttH", "tt", "qcd"]
    assert shown == {classes.names[label]: to_rgba(color) for label, color in colors(classes).items()}
