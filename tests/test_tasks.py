"""What a model is to tell: names and numbers of classes, and what follows from them."""

import pytest

from mlaas4hep_tf.errors import LabelError, PlanError
from mlaas4hep_tf.tasks import BINARY, Classes, Regression, Task, class_names, classes_of, numbered


@pytest.mark.parametrize(
    ("labels", "signal", "names", "first"),
    [
        ({"*ttH*": "ttH", "*": "QCD"}, None, ("QCD", "ttH"), "ttH"),  # of two names the first is signal, label 1
        ({"*ttH*": "ttH", "*": "QCD"}, "QCD", ("ttH", "QCD"), "QCD"),
        (["ttH", "tt", "ttH", "QCD"], None, ("ttH", "tt", "QCD"), "ttH"),  # more keep their order
        (["ttH", "tt", "ttH", "QCD"], "QCD", ("ttH", "tt", "QCD"), "QCD"),
        ([1, 0], None, (), "signal"),
        ([2, 0, 1], None, (), "0"),
        ("kind", None, (), "signal"),
    ],
)
def test_classes_keep_their_order(labels, signal, names, first):
    assert class_names(labels, signal) == names
    numbers = numbered(labels, names)
    values = [0, 1] if isinstance(numbers, str) else numbers.values() if isinstance(numbers, dict) else numbers
    classes = classes_of(labels, [*values], signal=signal)
    assert classes.names[classes.signal] == first
    assert classes.names == (names or classes.names)


def test_two_classes_have_one_output_and_more_one_each():
    assert (BINARY.width, BINARY.columns, BINARY.names) == (1, ("score",), ("background", "signal"))
    three = Classes(("ttH", "t t", "QCD"), signal=0)
    assert (three.width, three.columns) == (3, ("score_ttH", "score_t_t", "score_QCD"))
    assert three.signal_first == (0, 1, 2)
    assert Classes(("a", "b", "c"), signal=2).signal_first == (2, 0, 1)
    assert Task.from_json(Task(three).to_json()) == Task(three)


def test_labels_that_are_numbers_may_have_names():
    assert classes_of("kind", [0, 1, 2], names=["a", "b", "c"], signal="c") == Classes(("a", "b", "c"), 2)
    assert numbered({"*x*": "c"}, ("a", "b", "c")) == {"*x*": 2.0}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (([0],), r"labels must be 0 for background and 1 for signal, each with events; there are \[0\]"),
        (([0, 2],), r"labels must be 0 to 2, each with events; there are \[0, 2\]"),
        (([0, 0.5],), "labels must be 0 to 2"),
        ((["a", "a"],), "two of them at least"),
        (({"*": "a b", "x": "a_b"},), "must differ in letters and digits"),
    ],
)
def test_labels_that_are_no_classes(given, says):
    (labels,) = given
    numbers = numbered(labels, class_names(labels))
    with pytest.raises(LabelError, match=says):
        classes_of(labels, [*(numbers.values() if isinstance(numbers, dict) else numbers)])


def test_names_that_are_not_there():
    with pytest.raises(LabelError, match="all names or all numbers"):
        class_names({"*a*": "a", "*": 0})  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(LabelError, match=r"signal 'tth' is no class \(did you mean 'ttH'\?\); there are ttH, QCD"):
        class_names(["ttH", "QCD"], "tth")
    with pytest.raises(LabelError, match="no class 'QCd'"):
        numbered(["QCd"], ("ttH", "QCD"))
    with pytest.raises(LabelError, match="these labels have names already"):
        classes_of(["a", "b"], [0, 1], names=["x", "y"])
    with pytest.raises(LabelError, match="of two classes signal has label 1, which is 'b'"):
        classes_of([0, 1], [0, 1], names=["a", "b"], signal="a")
    with pytest.raises(PlanError, match="crossentropy, focal, not 'mse'"):
        Classes(("a", "b"), loss="mse")


def test_a_number_or_quantiles_of_it():
    assert Regression("ht", 1, 2).columns == ("predicted_ht",)
    quantiles = Regression("Gen/mass", 1, 2, "quantile", (0.025, 0.5))
    assert (quantiles.columns, quantiles.central) == (("predicted_Gen_mass_q2_5", "predicted_Gen_mass_q50"), 1)
    assert Task.from_json(Task(quantiles).to_json()) == Task(quantiles)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss": "focal"}, "mse, mae, huber, quantile, not 'focal'"),
        ({"scale": 0}, "one value in all events"),
        ({"loss": "quantile"}, "belong together"),
        ({"loss": "quantile", "quantiles": (0.5, 0.2)}, r"must rise between 0 and 1, not \(0.5, 0.2\)"),
    ],
)
def test_numbers_that_cannot_be_learnt(options, says):
    with pytest.raises((LabelError, PlanError), match=says):
        Regression(**{"target": "ht", "offset": 0, "scale": 1} | options)
