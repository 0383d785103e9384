"""The analysis of the demo's files against uproot and Awkward Array by hand: every count, every derived value."""

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep_tf import RootDataset, scan
from mlaas4hep_tf.errors import DataWarning

CUTS = ("nFatJet >= 1", "nLepton == 0", "nJet >= 4 and ht30 > 300", "0 < mjj < 500", "met > 20 or metphi < 0")
DEFINE = {
    "ht30": "sum(Jet_pt)", "lead": "Jet_pt[0]", "soft": "min(Jet_pt)", "tags": "count(Jet_btag > 0.5)",
    "mjj": "mass(Jet[0], Jet[1])", "heavy": "max(mass(pairs(Jet)))", "share": "Jet_pt / ht30",
    "near": "min(delta_r(Jet, FatJet), over=FatJet)", "mt": "sqrt(2 * lead * met * (1 - cos(delta_phi(Jet_phi[0], metphi))))",
}  # fmt: skip


def by_hand(files):
    """Events after each cut, and the derived values of those that pass, in float64 of what the files have."""
    events = uproot.concatenate([f"{name}:events" for name in files])
    floats = {name: ak.values_astype(events[name], "f8") for name in events.fields}

    def objects(group, keep=None):
        vectors = ak.zip(
            {m: floats[f"{group}_{m}"] for m in ("pt", "eta", "phi", "mass", "btag") if f"{group}_{m}" in floats}
        )
        return vectors if keep is None else vectors[keep(vectors)]

    leptons = objects("Lepton", lambda v: (v.pt > 25) & (abs(v.eta) < 2.4))
    jets = objects("Jet", lambda v: (v.pt > 40) & (abs(v.eta) < 2.4))
    jets = jets[ak.argsort(-jets.pt, axis=1, stable=True)]
    fat = objects("FatJet")
    first, second = (ak.pad_none(jets, 2)[:, i] for i in (0, 1))
    pairs = ak.combinations(jets, 2, fields=["a", "b"])
    both = ak.cartesian({"a": jets, "b": fat}, nested=True)
    ht = ak.sum(jets.pt, axis=1)
    derived = {
        "ht30": ht, "lead": first.pt, "soft": ak.min(jets.pt, axis=1), "tags": ak.sum(jets.btag > 0.5, axis=1),
        "mjj": mass(first, second), "heavy": ak.max(mass(pairs.a, pairs.b), axis=1), "share": jets.pt / ht,
        "near": ak.min(np.hypot(both.a.eta - both.b.eta, angle(both.a.phi, both.b.phi)), axis=2),
        "mt": np.sqrt(2 * first.pt * floats["met"] * (1 - np.cos(angle(first.phi, floats["metphi"])))),
    }  # fmt: skip
    mjj = ak.fill_none(derived["mjj"], np.nan)
    cuts = (
        events["nFatJet"] >= 1, ak.num(leptons) == 0, (ak.num(jets) >= 4) & (ht > 300), (mjj > 0) & (mjj < 500),
        (events["met"] > 20) | (events["metphi"] < 0),
    )  # fmt: skip
    passing, left = np.ones(len(events), bool), [len(events)]
    for cut in cuts:
        passing = passing & ak.to_numpy(cut)
        left.append(int(passing.sum()))
    return left, {name: values[passing] for name, values in derived.items()}


def angle(a, b):
    return np.arctan2(np.sin(a - b), np.cos(a - b))


def mass(a, b):
    energy, x, y, z = (
        sum(np.sqrt(v.mass**2 + (v.pt * np.cosh(v.eta)) ** 2) for v in (a, b)), sum(v.pt * np.cos(v.phi) for v in (a, b)),
        sum(v.pt * np.sin(v.phi) for v in (a, b)), sum(v.pt * np.sinh(v.eta) for v in (a, b)),
    )  # fmt: skip
    return np.sqrt(energy**2 - x**2 - y**2 - z**2)


def test_counts_and_values(demo_files):
    with pytest.warns(DataWarning):  # genWeight and what no lepton is left of
        specs = scan(
            demo_files, "events", exclude="isSignal", define=DEFINE, select=CUTS, order={"Jet": "-Jet_pt"},
            objects={"Lepton": "Lepton_pt > 25 and abs(Lepton_eta) < 2.4", "Jet": "Jet_pt > 40 and abs(Jet_eta) < 2.4"},
            progress=False,
        )  # fmt: skip
    left, derived = by_hand(demo_files)
    assert specs.cutflow is not None and list(specs.cutflow.events) == left
    assert 100 < left[-1] < left[0] / 2
    ds = RootDataset(demo_files, specs, shuffle=False, normalize=None, layout="ragged", batch_size=500)
    batches = list(ds)
    for name, values in derived.items():
        got = np.concatenate([np.asarray(getattr(b[name], "flat_values", b[name])) for b in batches])
        want = ak.to_numpy(ak.flatten(ak.fill_none(values, np.nan, axis=-1), axis=None)).astype(np.float32)
        wrong = np.abs(got - want) > 4e-7 * np.abs(want)  # a few units in the last place: masses cancel
        assert np.isfinite(want).all()  # the cuts see to it
        assert got.shape == want.shape and not wrong.any(), (name, got[wrong], want[wrong])
