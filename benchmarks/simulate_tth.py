"""Simulate the paper's physics case: ttH(bb) all-hadronic against ttbar and QCD, as nine small ROOT files.

Pythia 8 makes the collisions, FastJet clusters the visible particles, and a parametrised b-tag stands in
for the detector.  As in section 4.1 of the paper an event is signal when both b quarks of the Higgs boson
lie within dR < 0.4 of b-tagged jets; ttH events without that match are background.

    pip install -e .[simulation]
    python benchmarks/simulate_tth.py --out benchmarks/data/tth

writes ``signal_ttH.root`` and eight ``bkg_*.root`` (tree ``events``, 22 flat and 52 jagged branches).  The
same seed gives the same events.  QCD and ttbar are generated above thresholds in pT, so the yields are
not cross sections.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import fastjet
import numpy as np
import pythia8mc
import uproot
import vector

vector.register_awkward()

BATCH = 250  # events generated at a time
MANTISSA_BITS = 10  # kept in every float, as NanoAOD does, so that the committed files stay small
TAG_CUT = 0.5
MATCH_DR = 0.4
MAX_PAIRS = 12
NEUTRINOS = (12, 14, 16)
KINEMATICS = ("pt", "eta", "phi", "mass", "energy")
SUBSTRUCTURE = ("nlep", "nconst", "nch", "chf", "width", "ptd", "lead", "girth2")
JET_COLUMNS = (*KINEMATICS, "btag", *SUBSTRUCTURE, "px", "py", "pz")
FAT_COLUMNS = (*KINEMATICS, *SUBSTRUCTURE, "rapidity")
CHARGED = (11, 13, 211, 321, 2212, 3112, 3222, 3312, 3334)

TTH = ("HiggsSM:gg2Httbar = on", "HiggsSM:qqbar2Httbar = on", "25:onMode = off", "25:onIfMatch = 5 -5",
       "24:onMode = off", "24:onIfAny = 1 2 3 4 5")  # fmt: skip
TTBAR = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")
QCD = ("HardQCD:all = on",)


@dataclass(frozen=True)
class Sample:
    """One generator run: its name, Pythia settings, lowest pT of the hard process (GeV) and events wanted."""

    name: str
    settings: tuple[str, ...]
    pt_hat_min: float
    events: int


SAMPLES = (
    Sample("signal_ttH", TTH, 0.0, 900),
    Sample("bkg_tt_1", TTBAR, 0.0, 1300),
    Sample("bkg_tt_2", TTBAR, 100.0, 1000),
    Sample("bkg_tt_3", TTBAR, 200.0, 700),
    Sample("bkg_QCD_1", QCD, 80.0, 1100),
    Sample("bkg_QCD_2", QCD, 150.0, 1000),
    Sample("bkg_QCD_3", QCD, 250.0, 800),
    Sample("bkg_QCD_4", QCD, 400.0, 500),
)  # bkg_ttH_unmatched.root, the ninth file, takes the ttH events that are no signal


def generate(sample: Sample, seed: int) -> Iterator[ak.Array]:
    """Yield Pythia's particle records, `BATCH` events at a time, without end."""
    pythia = pythia8mc.Pythia("", False)
    common = ("Print:quiet = on", "Beams:eCM = 13000.", "Random:setSeed = on", f"Random:seed = {seed}",
              f"PhaseSpace:pTHatMin = {sample.pt_hat_min}")  # fmt: skip
    for setting in (*common, *sample.settings):
        if not pythia.readString(setting):
            raise ValueError(f"Pythia refuses the setting {setting!r} of sample {sample.name}")
    pythia.init()
    while True:
        yield pythia.nextBatch(BATCH).prt


def momentum(particles: ak.Array, **extra: Any) -> ak.Array:
    p = particles.p
    return ak.zip({"px": p.px, "py": p.py, "pz": p.pz, "E": p.e, **extra}, with_name="Momentum4D")


def is_any(ids: ak.Array, wanted: tuple[int, ...]) -> ak.Array:
    return sum(abs(ids) == i for i in wanted) > 0


def has_quark(ids: ak.Array, quark: int) -> ak.Array:
    """True for hadrons that contain this heavy quark (PDG numbering: hundreds or thousands digit)."""
    digits = abs(ids)
    return (digits > 100) & (((digits // 100) % 10 == quark) | ((digits // 1000) % 10 == quark))


def visible(particles: ak.Array) -> ak.Array:
    """Stable particles that a detector would see, with charge and lepton flags for the jet observables."""
    stable = particles[(particles.status > 0) & ~is_any(particles.id, NEUTRINOS)]
    p4 = momentum(
        stable,
        charged=ak.values_astype(is_any(stable.id, CHARGED), np.int32),
        lepton=ak.values_astype(is_any(stable.id, (11, 13)), np.int32),
    )
    return p4[abs(p4.eta) < 4.7]


def distances(objects: ak.Array, others: ak.Array) -> ak.Array:
    """Distances dR from each object to each of the others, [event, object, other]."""
    left, right = ak.unzip(ak.cartesian([objects, others], nested=True))
    return left.deltaR(right)


def nearest(objects: ak.Array, others: ak.Array) -> ak.Array:
    """Distance dR from each object to the nearest of the others; 99 where there are none."""
    return ak.fill_none(ak.min(distances(objects, others), axis=-1), 99.0)


def cluster(particles: ak.Array, radius: float, min_pt: float) -> ak.Array:
    """Anti-kT jets sorted by pT with |eta| < 2.5 - radius/4 and their substructure."""
    sequence = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    jets = sequence.inclusive_jets(min_pt=min_pt)
    parts = sequence.constituents(min_pt=min_pt)
    jets = ak.zip({"px": jets.px, "py": jets.py, "pz": jets.pz, "E": jets.E}, with_name="Momentum4D")
    pt, dr = parts.pt, parts.deltaR(jets)
    total = ak.sum(pt, axis=-1)
    found = ak.zip({
        "px": jets.px, "py": jets.py, "pz": jets.pz, "E": jets.E,
        "nconst": ak.num(pt, axis=-1), "nch": ak.sum(parts.charged, axis=-1), "nlep": ak.sum(parts.lepton, axis=-1),
        "chf": ak.sum(pt * parts.charged, axis=-1) / total, "width": ak.sum(pt * dr, axis=-1) / total,
        "girth2": ak.sum(pt * dr**2, axis=-1) / total, "ptd": np.sqrt(ak.sum(pt**2, axis=-1)) / total,
        "lead": ak.fill_none(ak.max(pt, axis=-1), 0.0) / total,
    }, with_name="Momentum4D")  # fmt: skip
    found = found[abs(found.eta) < 2.5 - radius / 4]
    return found[ak.argsort(found.pt, ascending=False)]


def b_tag(jets: ak.Array, particles: ak.Array, rng: np.random.Generator) -> ak.Array:
    """A discriminator in (0, 1): beta distributions for jets with a b hadron, a c hadron, neither."""
    heavy = {q: momentum(particles[has_quark(particles.id, q)]) for q in (5, 4)}
    has_b, has_c = (nearest(jets, heavy[q][heavy[q].pt > 5]) < MATCH_DR for q in (5, 4))
    count = int(ak.sum(ak.num(jets)))
    draw = [ak.unflatten(rng.beta(a, b, count), ak.num(jets)) for a, b in ((4, 1.2), (2, 2.5), (1, 5))]
    return ak.where(has_b, draw[0], ak.where(has_c, draw[1], draw[2]))


def columns(jets: ak.Array, names: tuple[str, ...], **extra: ak.Array) -> ak.Array:
    return ak.zip({name: getattr(jets, name) for name in names} | extra)


def lepton_record(particles: ak.Array, jets: ak.Array) -> ak.Array:
    stable = particles[(particles.status > 0) & is_any(particles.id, (11, 13))]
    p4 = momentum(stable, pid=stable.id)
    keep = (p4.pt > 10) & (abs(p4.eta) < 2.4)
    p4 = p4[keep]
    p4 = p4[ak.argsort(p4.pt, ascending=False)]
    return ak.zip({
        "pt": p4.pt, "eta": p4.eta, "phi": p4.phi, "mass": p4.mass, "energy": p4.E, "pid": p4.pid,
        "drjet": nearest(p4, jets),
    })  # fmt: skip


def pair_record(jets: ak.Array) -> ak.Array:
    """The jet pairs of highest product of b-tags, best first: candidates for H -> bb."""
    index = ak.argcombinations(jets, 2, fields=["a", "b"])
    order = ak.argsort(jets.btag[index.a] * jets.btag[index.b], ascending=False)[:, :MAX_PAIRS]
    first, second = jets[index.a[order]], jets[index.b[order]]
    total = first + second
    dphi = abs(first.deltaphi(second))
    return ak.zip({
        "mass": total.mass, "pt": total.pt, "eta": total.eta, "phi": total.phi, "energy": total.E,
        "dr": first.deltaR(second), "deta": abs(first.eta - second.eta), "dphi": dphi,
        "tag": first.btag * second.btag, "ptasym": abs(first.pt - second.pt) / (first.pt + second.pt),
        "masspull": (total.mass - 125.0) / 15.0, "costs": np.tanh((first.eta - second.eta) / 2),
    })  # fmt: skip


def higgs_matched(particles: ak.Array, jets: ak.Array) -> np.ndarray:
    """True where both b quarks of the Higgs boson lie near b-tagged jets."""
    mother = particles.id[particles.mother1]
    quarks = momentum(particles[(abs(particles.id) == 5) & (mother == 25)])
    tagged = jets[jets.btag > TAG_CUT]
    near = nearest(quarks, tagged) < MATCH_DR
    return np.asarray(ak.to_numpy((ak.num(quarks) == 2) & ak.all(near, axis=-1)))


def nth(values: ak.Array, n: int) -> np.ndarray:
    """The n-th value of each event, 0 where there is none."""
    return np.asarray(ak.to_numpy(ak.fill_none(ak.pad_none(values, n + 1)[:, n], 0.0)))


def reconstruct(particles: ak.Array, rng: np.random.Generator) -> tuple[dict[str, Any], np.ndarray]:
    """Branches of the events that pass >= 3 jets and >= 1 b-tag, and which of them are Higgs-matched."""
    seen = visible(particles)
    jets = cluster(seen, 0.4, 25.0)
    jets = ak.with_field(jets, b_tag(jets, particles, rng), "btag")
    keep = (ak.num(jets) >= 3) & ak.any(jets.btag > TAG_CUT, axis=-1)
    particles, seen, jets = particles[keep], seen[keep], jets[keep]
    fat = cluster(seen, 0.8, 200.0)
    px, py = -ak.sum(seen.px, axis=-1), -ak.sum(seen.py, axis=-1)
    met_phi = np.arctan2(py, px)
    pairs = pair_record(jets)
    tags = ak.sort(jets.btag, ascending=False)
    fat_dphi = (fat.phi - met_phi + np.pi) % (2 * np.pi) - np.pi
    fat_tags = ak.cartesian([fat.pt, jets.btag], nested=True)["1"] * (distances(fat, jets) < 0.8)
    fat_btag = ak.fill_none(ak.max(fat_tags, axis=-1), 0.0)
    branches = {
        "ht": ak.sum(jets.pt, axis=-1), "met": np.hypot(px, py), "metphi": met_phi,
        "nBJet": ak.sum(jets.btag > TAG_CUT, axis=-1), "mbb": nth(pairs.mass, 0), "drbb": nth(pairs.dr, 0),
        "ptbb": nth(pairs.pt, 0), "jet1pt": nth(jets.pt, 0), "jet6pt": nth(jets.pt, 5), "fat1pt": nth(fat.pt, 0),
        "fat1mass": nth(fat.mass, 0), "btag1": nth(tags, 0), "btag3": nth(tags, 2),
        "Jet": columns(jets, JET_COLUMNS),
        "FatJet": columns(fat, FAT_COLUMNS, btag=fat_btag, dphimet=fat_dphi),
        "Lepton": lepton_record(particles, jets), "Pair": pairs,
    }  # fmt: skip
    return branches, higgs_matched(particles, jets)


def narrow(array: Any) -> Any:
    """float64 -> float32 of `MANTISSA_BITS` bits, int64 -> int32, through any awkward structure."""

    def change(layout: Any, **_: Any) -> Any:
        if not layout.is_numpy:
            return None
        data = layout.data
        if data.dtype.kind in "iu":
            return ak.contents.NumpyArray(data.astype(np.int32))
        bits = data.astype(np.float32).view(np.uint32)
        drop = np.uint32(23 - MANTISSA_BITS)
        half = np.uint32(1) << (drop - np.uint32(1))
        return ak.contents.NumpyArray((((bits + half) >> drop) << drop).view(np.float32))

    return ak.transform(change, array)


def simulate(sample: Sample, seed: int) -> tuple[ak.Array, np.ndarray]:
    """Generate until `sample.events` events are kept (for ttH: that many Higgs-matched ones)."""
    rng = np.random.default_rng(seed)
    kept, matched, done = [], [], 0
    for particles in generate(sample, seed):
        branches, signal = reconstruct(particles, rng)
        kept.append(narrow(ak.zip(branches, depth_limit=1)))
        matched.append(signal)
        done += int(signal.sum()) if sample.settings is TTH else len(signal)
        if done >= sample.events:
            return ak.concatenate(kept), np.concatenate(matched)
    raise AssertionError("unreachable: the generator has no end")


def write(path: Path, events: ak.Array, *, signal: bool, run: int) -> None:
    n = len(events)
    identifiers = {
        "run": np.full(n, run, np.int32), "lumi": (np.arange(n) // 100).astype(np.int32),
        "event": np.arange(n, dtype=np.int64) + 1_000_000 * run,
        "genWeight": np.ones(n, np.float32), "isSignal": np.full(n, int(signal), np.int32),
    }  # fmt: skip
    with uproot.recreate(path, compression=uproot.ZSTD(15)) as file:
        branches = identifiers | {name: events[name] for name in events.fields}
        tree = file.mktree("events", {name: ak.type(ak.Array(array)).content for name, array in branches.items()})
        tree.extend(branches)
    print(f"{path}: {n} events, {path.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/tth"))
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of events of every sample")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(SAMPLES):
        wanted = Sample(sample.name, sample.settings, sample.pt_hat_min, max(1, round(sample.events * args.scale)))
        events, matched = simulate(wanted, args.seed + number)
        if sample.settings is TTH:
            write(args.out / "signal_ttH.root", events[matched][: wanted.events], signal=True, run=1)
            write(args.out / "bkg_ttH_unmatched.root", events[~matched], signal=False, run=1)
        else:
            write(args.out / f"{sample.name}.root", events[: wanted.events], signal=False, run=number + 1)


if __name__ == "__main__":
    main()
