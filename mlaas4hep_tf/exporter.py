"""`export`: preprocessing and model as one SavedModel, raw jagged branches in, score out, in TF-Serving layout."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from mlaas4hep_tf.analysis.applied import Applied
from mlaas4hep_tf.analysis.draws import FOLD
from mlaas4hep_tf.analysis.steps import Steps
from mlaas4hep_tf.errors import DataWarning, ModelError, shorten
from mlaas4hep_tf.expressions.by_tensorflow import TensorFlow
from mlaas4hep_tf.folded import Folded
from mlaas4hep_tf.heads import output_name
from mlaas4hep_tf.models import check_inputs, check_names, wants_mask
from mlaas4hep_tf.onnx_files import NETWORK, Arrays, check_extra, write_onnx
from mlaas4hep_tf.remarks import is_truth
from mlaas4hep_tf.specs import Specs
from mlaas4hep_tf.tasks import Task
from mlaas4hep_tf.transforms.pad import sentinel
from mlaas4hep_tf.transforms.served import packed, unpadded
from mlaas4hep_tf.transforms.vector import Preprocessor, Trained, preprocessor_of
from mlaas4hep_tf.trial_events import SPLITS, TrialEvents, trial_events

SELECTED = "selected"
_RANKS = {"flat": 1, "jagged": 2, "array": 2, "nested": 3}  # of the padded inputs
WARMUP_ROWS = (1, 8)
Format = Literal["savedmodel", "onnx"]
FoldChoice = Literal["own", "mean"]


class _Servable(tf.Module):  # type: ignore[misc]  # tensorflow has no type information
    """The model with its three signatures.

    It tracks TensorFlow's own variables and not the Keras model around them: of a tracked one each variable is saved
    twice, and loaders of graphs such as TF-Serving's restore the one that nothing reads.  The optimizer stays behind.
    """

    def __init__(self, model: keras.Model, preprocessor: Preprocessor) -> None:
        super().__init__()
        self._weights = [variable.value for variable in model.variables]
        self._call = model.__call__  # a bound method is not tracked
        self._preprocessor = preprocessor
        self.masked = wants_mask(model, preprocessor.form)
        self._steps = preprocessor.specs.served_steps
        lists = [one for one in preprocessor.specs.served_inputs if one.kind != "flat"]
        self._groups = tuple(dict.fromkeys(one.group for one in lists))
        self._inner = tuple(dict.fromkeys(one.inner for one in lists if one.inner))
        self._output = output_name(model)
        self.beside: dict[str, tf.DType] = {}  # inputs that the preprocessing does not take

    def _score(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._named(self._call(self._preprocessor.model_input(raw, mask=self.masked), training=False))

    def _named(self, outputs: Any) -> dict[str, tf.Tensor]:
        return outputs if isinstance(outputs, dict) else {self._output: outputs}

    def padded(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        if self._steps is not None:
            named = {one.name: inputs[input_name(one.name)] for one in self._preprocessor.specs.served_inputs}
            return self._analysed(self._steps, *unpadded(self._preprocessor.specs.served_inputs, self._steps, named))
        branches = {b.name: inputs[input_name(b.name)] for b in self._preprocessor.specs.branches}
        return self._score(self._preprocessor.from_branches(branches))

    def ragged(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        if self._steps is not None:
            named = {one.name: inputs[input_name(one.name)] for one in self._preprocessor.specs.served_inputs}
            splits = {group: inputs[splits_name(group)] for group in (*self._groups, *self._inner)}
            lengths = {group: split[1:] - split[:-1] for group, split in splits.items()}
            counts = {self._steps.name_of.get(group, group): own for group, own in lengths.items()}
            return self._analysed(self._steps, named, counts)
        layout = self._preprocessor.layout
        branches = {name: inputs[input_name(name)] for name in layout.names}
        groups = []
        for group, names in layout.groups:
            splits = tf.cast(inputs[input_name(group + SPLITS)], tf.int32)
            values = tf.stack([branches[name] for name in names], axis=1)  # [m, F]
            groups.append((sentinel(values), 1 + splits[:-1], splits[1:] - splits[:-1]))
        rows = tf.shape(groups[0][1] if groups else branches[layout.flat[0]])[0]
        flat = tf.stack([branches[name] for name in layout.flat], axis=1) if layout.flat else tf.zeros([rows, 0])
        return self._of_packed(flat, groups)

    def _of_packed(self, flat: tf.Tensor, groups: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]) -> dict[str, tf.Tensor]:
        if self._preprocessor.form == "ragged":  # lists end where they end, whatever is in them
            return self._named(self._call(self._preprocessor.ragged(flat, groups), training=False))
        return self._score(self._preprocessor.from_packed(flat, groups))

    def _analysed(
        self, steps: Steps, values: dict[str, tf.Tensor], counts: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """The answer for raw branches and objects per event; all events get a score, and those that pass are told."""
        flat = [one.name for one in self._preprocessor.specs.served_inputs if one.kind == "flat"]
        entries = tf.size(next(iter(counts.values())) if counts else values[flat[0]], tf.int64)
        applied = Applied(steps, TensorFlow(), values, counts, entries)
        features = packed(applied, self._preprocessor.layout, steps, entries)
        answer = self._of_packed(*features)
        if steps.select:
            answer[SELECTED] = tf.reduce_all(tf.stack(applied.truths(steps.select)), axis=0)
        return answer

    def ready(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        named = {name: inputs[input_name(name)] for name in self._preprocessor.input_specs(mask=self.masked)}
        x = named if self.masked or self._preprocessor.form != "vector" else next(iter(named.values()))
        return self._named(self._call(x, training=False))

    def signatures(self) -> dict[str, Any]:
        taken = self._preprocessor.specs.served_inputs
        dtypes = {one.name: tf.int64 if one.integer else tf.float32 for one in taken}
        padded = {b.name: tf.TensorSpec([None] * _RANKS[b.kind], dtypes[b.name]) for b in taken}
        ragged = {b.name: tf.TensorSpec([None], dtypes[b.name]) for b in taken}
        named = {input_name(name): name for name in ragged}
        for group in (*self._groups, *self._inner):
            met = named.get(splits_name(group))
            if met is not None:
                raise ModelError(
                    f"branch {met!r} has the name of the input for the row splits of {group!r}; exclude it"
                )
            ragged[splits_name(group)] = tf.TensorSpec([None], tf.int64)
        also = {name: tf.TensorSpec([None], dtype) for name, dtype in self.beside.items() if name not in padded}
        padded, ragged = padded | also, ragged | also
        ready = self._ready_specs()
        signatures = {"serving_default": (self.padded, padded), "ragged": (self.ragged, ragged)}
        form = self._preprocessor.form
        if form != "ragged":  # which raw lists are already
            signatures[next(iter(ready)) if form == "vector" else form] = (self.ready, ready)
        return {
            name: tf.function(method, autograph=False).get_concrete_function(**_named(spec))
            for name, (method, spec) in signatures.items()
        }

    def _ready_specs(self) -> dict[str, tf.TensorSpec]:
        return self._preprocessor.input_specs(mask=self.masked)


class _FoldedServable(_Servable):
    """The models of folds: each event is told by that of its own fold, or by the mean of all."""

    def __init__(self, folded: Folded, preprocessor: Preprocessor, choice: FoldChoice) -> None:
        super().__init__(folded.first, preprocessor)
        self._weights = [variable.value for model in folded.models for variable in model.variables]
        self._calls = [model.__call__ for model in folded.models]
        self._call = self._all
        self._draw = folded.draw if choice == "own" else None
        if self._draw is not None:
            self._draw_steps = self._draw.steps(folded.infos)
            whole = [info for info in folded.infos if info.dtype.lstrip("<>=|")[:1] in ("i", "u")]
            self.beside = {info.name: tf.int64 if info in whole else tf.float32 for info in folded.infos}

    def _all(self, x: Any, *, training: bool) -> Any:
        """The outputs of all models, [B, folds, outputs]."""
        found = [call(x, training=training) for call in self._calls]
        return tf.nest.map_structure(lambda *own: tf.stack(own, axis=1), *found)

    def padded(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._chosen(super().padded(**inputs), self._fold(inputs))

    def ragged(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._chosen(super().ragged(**inputs), self._fold(inputs))

    def ready(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        fold = inputs.pop(FOLD, None)
        return self._chosen(super().ready(**inputs), fold)

    def _ready_specs(self) -> dict[str, tf.TensorSpec]:
        fold = {FOLD: tf.TensorSpec([None], tf.int64)} if self._draw is not None else {}
        return super()._ready_specs() | fold

    def _fold(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor | None:
        if self._draw is None:
            return None
        values = {name: inputs[input_name(name)] for name in self.beside}
        return self._draw.of(self._draw_steps, TensorFlow(), values, tf.size(next(iter(values.values())), tf.int64))

    def _chosen(self, answer: dict[str, tf.Tensor], fold: tf.Tensor | None) -> dict[str, tf.Tensor]:
        if fold is None:
            return {name: own if name == SELECTED else tf.reduce_mean(own, axis=1) for name, own in answer.items()}
        return {name: own if name == SELECTED else tf.gather(own, fold, batch_dims=1) for name, own in answer.items()}


def _servable(model: keras.Model | Folded, preprocessor: Preprocessor, folds: FoldChoice) -> _Servable:
    if not isinstance(model, Folded):
        return _Servable(model, preprocessor)
    if folds == "own" and not model.draw.servable:
        raise ModelError(
            f"{model.draw.describe()}, which a served event does not know: export the mean of all models (--folds "
            "mean), or draw folds by identifiers or by an expression (--fold-by)"
        )
    return _FoldedServable(model, preprocessor, folds)


def _named(spec: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    named = {input_name(name): tf.TensorSpec(s.shape, s.dtype, name=input_name(name)) for name, s in spec.items()}
    if len(named) < len(spec):
        twice = next(name for name, count in Counter(map(input_name, spec)).items() if count > 1)
        branches = shorten(repr(branch) for branch in spec if input_name(branch) == twice)
        raise ModelError(f"several branches would have the same input name {twice}: {branches}; exclude all but one")
    return named


def splits_name(lists: str) -> str:
    """Name of the input with the row splits of a group, or of the lists in its objects."""
    return input_name(lists.removesuffix("[]") + SPLITS)


def input_name(branch: str) -> str:
    """Name of a branch in a signature: TensorFlow takes letters, digits and ``_``, and a letter first."""
    name = re.sub(r"\W", "_", branch, flags=re.ASCII)
    return name if name[0].isalpha() else f"x{name}"


def export(
    model: keras.Model | Folded,
    trained: Preprocessor | Trained,
    path: str | os.PathLike[str],
    *,
    format: Format = "savedmodel",  # noqa: A002 (as in Keras)
    card: Mapping[str, Any] | None = None,
    task: Task | None = None,
    folds: FoldChoice = "own",
) -> Path:
    """Write a model that takes events as they are in the ROOT files.

    A SavedModel has these signatures, all with output ``score`` float32 [B, outputs] (of a number ``value``, and of
    several things those of the task, `tasks.Task.outputs`), the first two also with ``selected`` bool [B] where the
    specs have a selection; what is not selected gets a score as well:

    - ``serving_default``: branches by name (`input_name`), flat float32 [B], jagged float32 [B, any] padded with NaN;
    - ``ragged``: flat float32 [B], jagged values float32 [m] and for each group ``<group>_row_splits`` int64 [B + 1];
      lists in the objects of a group, which only expressions use, have row splits of their own beside the group's;
    - ``vector``: the ready ``vector`` float32 [B, D], and ``mask`` bool [B, D] if the model takes it;
      for a model on images instead ``image``: the ready ``image`` float32 [B, bins of each axis ..., channels]; for
      one on objects or columns ``objects`` or ``columns``: what `RootDataset` gives in this layout, by `input_name`.

    Lengths, order and constants of the specs are part of the graph, so what is trained is what is served.
    ``assets.extra/`` holds warm-up requests for TF-Serving and the model card.

    As ONNX the same three graphs are files: ``model.onnx`` (padded), ``model_ragged.onnx`` and ``network.onnx``
    (vector or image), beside ``model_card.json``, which is each file's metadata ``model_card`` too.  They are written
    only if onnxruntime gives TensorFlow's answers to 1e-5, on events with NaN, infinities, empty and over-long lists.

    Args:
        model: a Keras model trained on any layout.
        trained: what it was trained with: the `RootDataset`, the `runs.Run`, or a `Preprocessor`.  `Specs` are not
            enough: they do not know the normalisation.
        path: folder to make; that of a SavedModel is ``<name>/<version>``, the version an integer.
        format: ``savedmodel`` or ``onnx`` (the extra ``onnx``).
        card: more entries of the model card, for example metrics.
        task: what the model tells, for the card; that of the `runs.Run` by default.
        folds: of the models of folds (`folded.Folded`): ``own``, in the graph the model is chosen that has not seen the
            event, for which the branches that tell its fold are inputs too (and ``fold`` beside the ready input); or
            ``mean``, the mean of all outputs.

    Returns:
        The folder.

    Raises:
        ModelError: specs alone, a folder that exists or is no version, a model whose input is not the vector, or
            Keras on another backend than TensorFlow; ONNX files that would not agree; or folds that an event does not
            tell.
        MissingExtra: ONNX without its extra.

    Warns:
        DataWarning: ``network.onnx`` alone is written, because the specs have an analysis, or the preprocessing an op
            that ONNX lacks.
    """
    preprocessor, target = preprocessor_of(trained), Path(path)
    told = task or getattr(trained, "task", None)
    _check_backend()
    _check_target(target, format)
    if format == "onnx" and preprocessor.form == "ragged":
        raise ModelError("ONNX has no ragged tensors: train on layout='objects' or 'columns' to have ONNX files")
    _check_input(_first(model), preprocessor)
    _check_truth(preprocessor.specs)
    servable = _servable(model, preprocessor, folds)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch) / "model"
        write = _write if format == "savedmodel" else _write_onnx
        more = {**_told(told), **_of_folds(model, folds), **(card or {})}
        write(servable, preprocessor, folder, _card(_first(model), servable, preprocessor, more, target))
        folder.chmod(0o755)
        folder.replace(target)
    if format == "savedmodel":
        shutil.copy(target / "assets.extra" / "model_card.json", target.parent / f"{target.name}.model_card.json")
    return target


def _first(model: keras.Model | Folded) -> keras.Model:
    return model.first if isinstance(model, Folded) else model


def _of_folds(model: keras.Model | Folded, folds: FoldChoice) -> dict[str, Any]:
    """What the card says of folds."""
    if not isinstance(model, Folded):
        return {}
    return {"folds": {"models": len(model.models), "told": folds, "how": model.draw.describe()}}


def _check_input(model: keras.Model, preprocessor: Preprocessor) -> None:
    if preprocessor.form == "vector":
        check_inputs(model, preprocessor.width, preprocessor.image)
    else:
        check_names(model, preprocessor)


def _check_backend() -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ModelError(
            f"a SavedModel is a TensorFlow graph, and this process runs Keras on {backend}: save the "
            "model as .keras, which is the same for every backend, and export with KERAS_BACKEND=tensorflow"
        )


def _check_truth(specs: Specs) -> None:
    """Raise ModelError where the served model would need what only simulation knows."""
    targets = {target.name for target in specs.targets}
    truth = [one.name for one in specs.served_inputs if not one.feature and (one.name in targets or is_truth(one.name))]
    if truth:
        raise ModelError(
            f"the exported model would need {shorten(map(repr, truth))}, which only simulation knows: objects, "
            "order, define and select are part of it; take it out of them, or cut by train_select (--train-select)"
        )


def _check_target(target: Path, form: str) -> None:
    if form not in get_args(Format):
        raise ModelError(f"a model is exported as {' or '.join(map(repr, get_args(Format)))}, not {form!r}")
    if form == "onnx":
        check_extra()
    elif not target.name.isdigit():
        raise ModelError(f"TF-Serving loads <name>/<version> with an integer version: {target} ends in {target.name!r}")
    if target.exists():
        raise ModelError(f"{target} exists already: a version is never changed; export the next one")


def _write(servable: _Servable, preprocessor: Preprocessor, folder: Path, card: Mapping[str, Any]) -> None:
    tf.saved_model.save(servable, str(folder), signatures=servable.signatures())
    extra = folder / "assets.extra"
    extra.mkdir()
    _write_warmup(extra / "tf_serving_warmup_requests", servable, preprocessor.specs, card["name"])
    (extra / "model_card.json").write_text(json.dumps(card, indent=1) + "\n")


def _write_onnx(servable: _Servable, preprocessor: Preprocessor, folder: Path, card: Mapping[str, Any]) -> None:
    padded, ragged, network = servable.signatures().values()
    folder.mkdir()
    events = trial_events(preprocessor.specs)
    ready = preprocessor.model_input(_raw_vector(preprocessor, events), mask=servable.masked)
    graphs: dict[str, tuple[Any, Arrays]] = {}
    if preprocessor.specs.served_steps is None:
        also = _beside(servable, len(next(iter(events.padded().values()))))
        graphs["model.onnx"] = padded, {**_named_inputs(events.padded()), **also}
        graphs["model_ragged.onnx"] = ragged, {**_named_inputs(events.ragged()), **also}
    else:
        warnings.warn(
            f"{NETWORK} alone is written: selections, object cuts and derived branches are not converted to ONNX",
            DataWarning, stacklevel=4,
        )  # fmt: skip
    graphs[NETWORK] = network, _ready_inputs(network, ready)
    write_onnx(folder, graphs, card)
    (folder / "model_card.json").write_text(json.dumps(card, indent=1) + "\n")


def _raw_vector(preprocessor: Preprocessor, events: TrialEvents) -> tf.Tensor:
    return preprocessor.from_branches({name: tf.constant(values) for name, values in events.padded().items()})


def _beside(servable: _Servable, rows: int) -> dict[str, np.ndarray]:
    """Numbers for the inputs that the preprocessing does not take."""
    return {input_name(name): np.arange(rows).astype(dtype.as_numpy_dtype) for name, dtype in servable.beside.items()}


def _named_inputs(branches: Arrays) -> Arrays:
    return {input_name(name): values for name, values in branches.items()}


def _ready_inputs(network: Any, ready: Any) -> Arrays:
    """The model's own input, by the names of its signature."""
    names = [name for name in network.structured_input_signature[1] if name != FOLD]
    parts = {input_name(key): part for key, part in ready.items()} if isinstance(ready, dict) else {names[0]: ready}
    rows = len(next(iter(parts.values())))
    fold = {FOLD: np.arange(rows) % 2} if FOLD in network.structured_input_signature[1] else {}
    return {name: part.numpy() for name, part in parts.items()} | fold


def next_version(base: str | os.PathLike[str]) -> Path:
    """``<base>/<n>`` with the first version that is free."""
    folder = Path(base)
    taken = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return folder / str(max(taken, default=0) + 1)


def sample_request(specs: Specs, rows: int) -> dict[str, np.ndarray]:
    """A plausible request to ``serving_default``: every value at its mean (or middle), lists of full length.

    Where there is an analysis, the example event of the specs, as its inputs are more than the features.
    """
    request = {}
    if specs.analysis:
        for one in specs.served_inputs:
            example = np.array(specs.example[one.name], np.int64 if one.integer else np.float32)
            request[input_name(one.name)] = np.repeat(example[np.newaxis], rows, axis=0)
        return request
    for branch in specs.branches:
        middle = 0.0 if branch.min is None or branch.max is None else (branch.min + branch.max) / 2
        value = np.float32(branch.mean if branch.mean is not None else middle)
        shape = (rows,) if branch.kind == "flat" else (rows, max(branch.length, 1))
        request[input_name(branch.name)] = np.full(shape, value, np.float32)
    return request


def _write_warmup(path: Path, servable: _Servable, specs: Specs, name: str) -> None:
    # imported here: only export needs them, and they are slow to import
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

    with tf.io.TFRecordWriter(str(path)) as writer:
        for rows in WARMUP_ROWS:
            request = PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            for branch, values in (_beside(servable, rows) | sample_request(specs, rows)).items():
                request.inputs[branch].CopyFrom(tf.make_tensor_proto(values))
            writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())


def _told(task: Task | None) -> dict[str, Any]:
    """What the card says of the outputs."""
    if task is None:
        return {}
    return {
        "task": task.to_json(),
        "outputs": {name: {"columns": head.columns, "what": head.describe()} for name, head in task.outputs.items()},
    }


def _example(specs: Specs) -> dict[str, Any]:
    """The example of the specs as the model takes it: what was left out after the scan is not in it."""
    known = (one.name for one in specs.served_inputs if one.name in specs.example)
    return {input_name(name): specs.example[name] for name in known}


def _ragged_example(specs: Specs) -> dict[str, list[Any]]:
    """The example as the signature ``ragged`` takes it: values and row splits; empty where there is none."""
    found: dict[str, list[Any]] = {}
    for one in specs.served_inputs if specs.example else ():
        value = specs.example[one.name]
        if one.kind != "flat":
            found[splits_name(one.group)] = [0, len(value)]
        if one.inner:
            found[splits_name(one.inner)] = [0, *itertools.accumulate(map(len, value))]
            value = list(itertools.chain.from_iterable(value))
        found[input_name(one.name)] = value if isinstance(value, list) else [value]
    return found


def _card(
    model: keras.Model, servable: _Servable, preprocessor: Preprocessor, more: Mapping[str, Any], target: Path
) -> dict[str, Any]:
    beside = {name: input_name(name) for name in servable.beside}
    specs = preprocessor.specs
    packages = ("mlaas4hep_tf", "tensorflow", "keras", "numpy")
    return {
        "name": target.parent.name,
        "version": int(target.name) if target.name.isdigit() else None,
        "model": {"name": model.name, "parameters": model.count_params(), "mask": servable.masked},
        "layout": preprocessor.form,
        "data": {
            "fingerprint": specs.fingerprint,
            "entries": specs.entries,
            "files": specs.files.summary.count,
            "tree": specs.tree,
        },
        "normalize": preprocessor.normalize,
        "image": asdict(preprocessor.image) if preprocessor.image else None,
        "padding": "NaN",
        "columns": len(specs.vector_names),
        "inputs": {one.name: input_name(one.name) for one in specs.served_inputs} | beside,
        "example": dict.fromkeys(beside.values(), 0) | _example(specs),
        "ragged_example": {name: [0] for name in beside.values()} | _ragged_example(specs),
        "versions": {package: version(package) for package in packages},
        "metrics": None,
        "seed": None,
        **more,
        "specs": specs.to_json(),
    }
