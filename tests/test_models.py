"""Models: what they take, and the laws that a set model obeys."""

import keras
import numpy as np
import pytest

from mlaas4hep_tf import models
from mlaas4hep_tf.errors import ModelError
from mlaas4hep_tf.testing import make_events, write_tree


@pytest.fixture
def specs(tmp_path):
    from mlaas4hep_tf import scan

    path = write_tree(tmp_path / "t.root", make_events(200, groups={"Jet": 3, "Mu": 1}))
    return scan(path, progress=False)


def random_input(specs, rows=6, seed=0):
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=(rows, len(specs.vector_names))).astype("f4")
    mask = np.ones(vector.shape, bool)
    for members in specs.groups.values():
        counts = rng.integers(0, members[0].length + 1, rows)
        for b in members:
            columns = [specs.vector_names.index(c) for c in b.columns]
            mask[:, columns] = np.arange(len(columns)) < counts[:, None]
    return {"vector": np.where(mask, vector, 0).astype("f4"), "mask": mask}


def test_the_papers_network(specs):
    layers = models.mlp(specs).layers
    assert [(type(x).__name__, getattr(x, "units", getattr(x, "rate", None))) for x in layers[1:]] == [
        ("Dense", 128), ("Dropout", 0.5), ("Dense", 64), ("Dense", 1),
    ]  # fmt: skip
    assert [x.activation.__name__ for x in layers if hasattr(x, "units")] == ["relu", "relu", "sigmoid"]


def test_the_set_model_ignores_what_is_masked(specs):
    model = models.build("set", specs)
    x = random_input(specs)
    noise = x | {"vector": np.where(x["mask"], x["vector"], 99).astype("f4")}
    assert np.array_equal(model(x), model(noise))


def test_the_set_model_ignores_the_order_of_objects(specs):
    model = models.build("set", specs)
    x = random_input(specs)
    order = np.arange(len(specs.vector_names))
    for b in specs.groups["nJet"]:
        columns = [specs.vector_names.index(c) for c in b.columns]
        order[columns] = columns[::-1]
    swapped = {name: values[:, order] for name, values in x.items()}
    assert np.abs(np.asarray(model(x)) - np.asarray(model(swapped))).max() < 1e-6


def test_longer_padding_gives_the_same_prediction(specs):
    from dataclasses import replace

    model = models.build("set", specs)
    longer = replace(specs, branches=tuple(
        replace(b, length=b.length + 4) if b.kind != "flat" else b for b in specs.branches
    ))  # fmt: skip
    wide = models.build("set", longer)
    wide.set_weights(model.get_weights())
    x = random_input(specs)
    place = [longer.vector_names.index(name) for name in specs.vector_names]
    y = {"vector": np.zeros((6, len(longer.vector_names)), "f4"), "mask": np.zeros((6, len(longer.vector_names)), bool)}
    for name in y:
        y[name][:, place] = x[name]
    assert np.abs(np.asarray(model(x)) - np.asarray(wide(y))).max() < 1e-6


def test_saved_models_come_back_the_same(specs, tmp_path):
    model = models.build("set", specs)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    x = random_input(specs)
    assert np.array_equal(model(x), again(x))


def test_a_model_py_as_in_the_paper(specs, tmp_path):
    path = tmp_path / "model.py"
    path.write_text(
        "import keras\n"
        "def model(idim):\n"
        "    head = keras.layers.Dense(1, activation='sigmoid')\n"
        "    net = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(3), head])\n"
        "    net.compile(loss='binary_crossentropy', optimizer='sgd')\n"
        "    return net\n"
    )
    model = models.build(str(path), specs)
    assert model.input_shape == (None, len(specs.vector_names))
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert not models.wants_mask(model)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "mpl",
            r"no model 'mpl' \(did you mean 'mlp'\?\); there are mlp, set, particle_transformer, particle_net, cnn, module:function or a model.py",
        ),
        ("none.py", "no such model file: none.py"),
        ("no_such_module:f", "cannot import the model 'no_such_module:f'"),
        ("os:no_such_function", "os:no_such_function defines no function 'no_such_function'"),
        ("builtins:str", "must return a Keras model, not str"),
    ],
)
def test_models_that_are_not(specs, name, says):
    with pytest.raises(ModelError, match=says):
        models.build(name, specs)


def test_a_model_for_another_width(specs):
    with pytest.raises(ModelError, match=r"the model takes .* but the data give a vector of"):
        models.check_inputs(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), len(specs.vector_names))
