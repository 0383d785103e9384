"""Writes the files of this folder with ROOT, and values.json with what ROOT reads from them.

Needs an environment apart: python3 -m venv rootenv; rootenv/bin/pip install --pre root==0.1a12 (ROOT 6.40.00), and a C++
compiler.  Then rootenv/bin/python make_files.py, or with the names of some files to make these alone.  No value comes from another reader.
"""

import json
import os
import re
import sys
import tempfile
from array import array
from pathlib import Path

import ROOT  # type: ignore[import-not-found]  # of another environment

HERE = Path(__file__).resolve().parent
EVENTS = 12
NUMBERS = {f"{kind}_t" for kind in ("Bool", "Char", "UChar", "Short", "UShort", "Int", "UInt", "Long64", "ULong64", "Float",
                                    "Double", "Double32", "Float16")}  # fmt: skip
OBJECT = re.compile("vector<|ROOT::VecOps::RVec<|ROOT::Math|TLorentzVector$|EventInfoAux$|Derived$")


def number(event, item=0):
    """A number that float32 holds exactly, different for each event and item."""
    return (event + 1) * 1.25 + item * 0.0625


def size(event, step=1):
    return (3 * event * step + event // 2) % 5 if event != 4 else 0


def new_tree(name, tree="Events"):
    file = ROOT.TFile(name, "RECREATE", "", 505)
    made = ROOT.TTree(tree, tree)
    made.SetAutoFlush(5)  # clusters of five events
    return file, made


def nanoaod(name, first=0):
    file, tree = new_tree(name)
    run, lumi, event = array("I", [1]), array("I", [2]), array("Q", [0])
    met, hlt, npv, count, muons = array("f", [0]), array("b", [0]), array("B", [0]), array("i", [0]), array("i", [0])
    pt, eta = array("f", [0] * 8), array("f", [0] * 8)
    jet_id, flavour, good, charge = array("i", [0] * 8), array("h", [0] * 8), array("b", [0] * 8), array("i", [0] * 8)
    muon_pt = array("f", [0] * 8)
    for branch, buffer, leaves in [
        ("run", run, "run/i"), ("luminosityBlock", lumi, "luminosityBlock/i"), ("event", event, "event/l"),
        ("MET_pt", met, "MET_pt/F"), ("HLT_IsoMu24", hlt, "HLT_IsoMu24/O"), ("PV_npvs", npv, "PV_npvs/b"),
        ("nJet", count, "nJet/I"), ("Jet_pt", pt, "Jet_pt[nJet]/F"), ("Jet_eta", eta, "Jet_eta[nJet]/F"),
        ("Jet_jetId", jet_id, "Jet_jetId[nJet]/I"), ("Jet_hadronFlavour", flavour, "Jet_hadronFlavour[nJet]/S"),
        ("Jet_cleanmask", good, "Jet_cleanmask[nJet]/O"), ("nMuon", muons, "nMuon/I"),
        ("Muon_pt", muon_pt, "Muon_pt[nMuon]/F"), ("Muon_charge", charge, "Muon_charge[nMuon]/I"),
    ]:  # fmt: skip
        tree.Branch(branch, buffer, leaves)
    for i in range(first, first + EVENTS):
        event[0], met[0], hlt[0], npv[0], count[0], muons[0] = 2**40 + i, number(i), i % 2, 200 + i, size(i), size(i, 2)
        for k in range(8):
            pt[k], eta[k], jet_id[k], flavour[k], good[k] = number(i, k), -number(k, i), i - k, 5 - i, (i + k) % 2
            muon_pt[k], charge[k] = number(i, k) / 2, -1 if (i + k) % 2 else 1
        tree.Fill()
    file.Write()
    file.Close()


def hadd(name):
    """Two NanoAOD files merged without unpacking their baskets, as hadd does."""
    with tempfile.TemporaryDirectory() as folder:
        merger = ROOT.TFileMerger(False)
        merger.SetFastMethod(True)
        merger.OutputFile(name, "RECREATE", 505)
        for part in range(2):
            path = os.path.join(folder, f"{part}.root")
            nanoaod(path, part * EVENTS)
            merger.AddFile(path)
        assert merger.Merge()


def nanoaod_rntuple(name):
    """The same as an RNTuple, by ROOT's own importer: Jet_pt is a projection of an unnamed collection."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tree.root")
        nanoaod(path)
        importer = ROOT.Experimental.RNTupleImporter.Create(path, "Events", name)
        importer.SetIsQuiet(True)
        importer.Import()


def delphes(name):
    file, tree = new_tree(name, "Delphes")
    events, jets = ROOT.TClonesArray("Event", 1), ROOT.TClonesArray("Jet", 8)
    count = array("i", [0])
    tree.Branch("Event", events, 64000, 99)
    tree.Branch("Jet", jets, 64000, 99)
    tree.Branch("Jet_size", count, "Jet_size/I")
    for i in range(EVENTS):
        events.Clear("C")
        jets.Clear("C")
        event = events.ConstructedAt(0)
        event.Number, event.Weight = i, number(i)
        count[0] = size(i)
        for k in range(size(i)):
            jet = jets.ConstructedAt(k)
            jet.PT, jet.Eta, jet.BTag = number(i, k), -number(k, i), (i + k) % 2
            for n in range(3):
                jet.Tau[n] = number(i, k + n)
            jet.Area.SetPxPyPzE(i, k, i - k, number(i, k))
        tree.Fill()
    file.Write()
    file.Close()


def fill_electrons(electrons, i):
    for member in (electrons.pt, electrons.eta, electrons.charge):
        member.clear()
    for k in range(size(i)):
        electrons.pt.push_back(number(i, k))
        electrons.eta.push_back(-number(k, i))
        electrons.charge.push_back(1 - 2 * (k % 2))


def fill_vector(vector, values):
    vector.clear()
    for value in values:
        vector.push_back(value)


def link_to(index):
    link = ROOT.ElementLink()
    link.m_persKey, link.m_persIndex = 7, index
    return link


def physlite(name):
    file, tree = new_tree(name, "CollectionTree")
    info, electrons = ROOT.EventInfoAux(), ROOT.ElectronAux()
    pt, constituents = ROOT.std.vector["float"](), ROOT.std.vector["std::vector<float>"]()
    truth = ROOT.std.vector["unsigned char"]()
    links = ROOT.std.vector["ElementLink"]()
    tree.Branch("EventInfoAux.", info)
    tree.Branch("AnalysisElectronsAux.", electrons, 32000, 1)
    tree.Branch("AnalysisJetsAuxDyn.pt", pt)
    tree.Branch("AnalysisJetsAuxDyn.DFCommonJets_jetClean", truth)
    tree.Branch("AnalysisJetsAuxDyn.constituentPt", constituents)
    tree.Branch("AnalysisJetsAuxDyn.btaggingLink", links, 32000, 1)
    for i in range(EVENTS):
        info.runNumber, info.eventNumber, info.averageInteractionsPerCrossing = 1, 2**40 + i, number(i)
        fill_electrons(electrons, i)
        fill_vector(pt, [number(i, k) for k in range(size(i, 2))])
        fill_vector(truth, [(i + k) % 2 for k in range(size(i, 2))])
        fill_vector(constituents, [ROOT.std.vector["float"]([number(i, k)] * k) for k in range(size(i, 2))])
        fill_vector(links, [link_to(k) for k in range(size(i, 2))])
        tree.Fill()
    file.Write()
    file.Close()


def write_rntuple(path, name, fields, fill):
    """An RNTuple of fields (name -> C++ type), filled event after event, in clusters of five events."""
    model = ROOT.RNTupleModel.Create()
    for field, typename in fields.items():
        model.MakeField[typename](field)
    writer = ROOT.RNTupleWriter.Recreate(model, name, path)
    entry = writer.CreateEntry()
    for i in range(EVENTS):
        fill(entry, i)
        writer.Fill(entry)
        if i % 5 == 4:
            writer.CommitCluster()
    del writer


def physlite_rntuple(name):
    def fill(entry, i):
        info = entry["EventInfoAux:"]
        info.runNumber, info.eventNumber, info.averageInteractionsPerCrossing = 1, 2**40 + i, number(i)
        fill_electrons(entry["AnalysisElectronsAux:"], i)
        entry["AnalysisJetsAuxDyn:pt"] = [number(i, k) for k in range(size(i, 2))]
        fill_vector(entry["AnalysisJetsAuxDyn:btaggingLink"], [link_to(k) for k in range(size(i, 2))])
        constituents = [ROOT.std.vector["float"]([number(i, k)] * k) for k in range(size(i, 2))]
        fill_vector(entry["AnalysisJetsAuxDyn:constituentPt"], constituents)

    write_rntuple(name, "EventData", {
        "EventInfoAux:": "EventInfoAux", "AnalysisElectronsAux:": "ElectronAux",
        "AnalysisJetsAuxDyn:pt": "std::vector<float>", "AnalysisJetsAuxDyn:btaggingLink": "std::vector<ElementLink>",
        "AnalysisJetsAuxDyn:constituentPt": "std::vector<std::vector<float>>",
    }, fill)  # fmt: skip


def particles(i):
    found = []
    for k in range(size(i)):
        particle = ROOT.Particle()
        particle.PDG, particle.energy, particle.clusters_end = 11 - 2 * k, number(i, k), k
        particle.momentum.x, particle.momentum.y, particle.momentum.z = number(i, k), i, -k
        for n in range(3):
            particle.covMatrix[n] = number(n, k)
        found.append(particle)
    return found


def edm4hep(name):
    file, tree = new_tree(name, "events")
    found, links = ROOT.std.vector["Particle"](), ROOT.std.vector["ElementLink"]()
    tree.Branch("Particles", found, 32000, 99)
    tree.Branch("_Particles_clusters", links, 32000, 99)
    for i in range(EVENTS):
        fill_vector(found, particles(i))
        fill_vector(links, [link_to(k) for k in range(size(i, 2))])
        tree.Fill()
    file.Write()
    file.Close()


def edm4hep_rntuple(name):
    def fill(entry, i):
        fill_vector(entry["Particles"], particles(i))
        fill_vector(entry["_Particles_clusters"], [link_to(k) for k in range(size(i, 2))])

    fields = {"Particles": "std::vector<Particle>", "_Particles_clusters": "std::vector<ElementLink>"}
    write_rntuple(name, "events", fields, fill)


SNAPSHOT = {
    "event": "(ULong64_t) rdfentry_", "met": "(float) (rdfentry_ * 1.25)", "passes": "rdfentry_ % 2 == 0",
    "n": "(int) (rdfentry_ * 3 % 5)", "jet_pt": "ROOT::RVecF v(n); for (int k = 0; k < n; k++) v[k] = met + k; return v;",
    "jet_eta": "-jet_pt", "jet_tight": "ROOT::RVecB v(n); for (int k = 0; k < n; k++) v[k] = k % 2 == 0; return v;",
    "mass": "(double) met / 3", "tracks": "std::vector<short> v(n + 1, -3); return v;",
    "three": "std::array<float, 3>{met, 1, 2}", "ids": "ROOT::RVec<ULong64_t> v(2, rdfentry_); return v;",
}  # fmt: skip


def snapshot(name, rntuple=False):
    options = ROOT.RDF.RSnapshotOptions()
    if rntuple:
        options.fOutputFormat = ROOT.RDF.ESnapshotOutputFormat.kRNTuple
    frame = ROOT.RDataFrame(EVENTS)
    for column, expression in SNAPSHOT.items():
        frame = frame.Define(column, expression)
    columns = [column for column in SNAPSHOT if rntuple or column != "three"]  # ROOT 6.40 cannot read it from a TTree
    frame.Snapshot("Events", name, columns, options)


def vectors(name):
    file, tree = new_tree(name)
    kinds = {"f": "float", "d": "double", "i": "int", "s": "short", "c": "signed char", "b": "unsigned char", "l": "Long64_t",
             "u": "unsigned int", "bool": "bool"}  # fmt: skip
    flat = {key: ROOT.std.vector[kind]() for key, kind in kinds.items()}
    for key, vector in flat.items():
        tree.Branch(f"jet_{key}", vector)
    nested, text = ROOT.std.vector["std::vector<float>"](), ROOT.std.string()
    tree.Branch("nested", nested)
    tree.Branch("text", text)
    for i in range(EVENTS):
        for key, vector in flat.items():
            fill_vector(
                vector, [(-1) ** k * (i + k) if key not in ("b", "u", "bool") else (i + k) % 2 for k in range(size(i))]
            )
        fill_vector(nested, [ROOT.std.vector["float"]([number(i, k)] * k) for k in range(size(i))])
        text.assign("event" * (i % 3))
        tree.Fill()
    file.Write()
    file.Close()


NESTED = {"float": "float", "double": "double", "short": "short", "char": "signed char", "long": "Long64_t",
          "unsigned": "ULong64_t", "bool": "bool"}  # fmt: skip


def nested_values(i, kind):
    """Lists of lists, empty ones among both."""
    unsigned, bits = kind.startswith("U"), kind == "bool"
    return [
        [(i + k + n) % 2 if bits else (1 if unsigned else (-1) ** n) * (i + k + n) for n in range(k)]
        for k in range(size(i))
    ]


def nested(name):
    """Lists of lists of numbers; those of char ROOT reads only with a dictionary of its own."""
    file, tree = new_tree(name)
    vectors = {key: ROOT.std.vector[f"std::vector<{kind}>"]() for key, kind in NESTED.items() if key != "char"}
    for key, vector in vectors.items():
        tree.Branch(f"hits_{key}", vector)
    for i in range(EVENTS):
        for key, vector in vectors.items():
            kind = NESTED[key]
            fill_vector(vector, [ROOT.std.vector[kind](values) for values in nested_values(i, kind)])
        tree.Fill()
    file.Write()
    file.Close()


def nested_rntuple(name):
    """Lists of lists of numbers, of structs that have lists, and of lists of structs, which share their lengths."""

    def fill(entry, i):
        for key, kind in NESTED.items():
            lists = [ROOT.std.vector[kind](values) for values in nested_values(i, kind)]
            fill_vector(entry[f"hits_{key}"], lists)
        electrons, links = [], []
        for k in range(size(i)):
            electron = ROOT.ElectronAux()
            fill_electrons(electron, i + k)
            electrons.append(electron)
            links.append(ROOT.std.vector["ElementLink"]([link_to(k + n) for n in range(k)]))
        fill_vector(entry["electrons"], electrons)
        fill_vector(entry["links"], links)

    fields = {f"hits_{key}": f"std::vector<std::vector<{kind}>>" for key, kind in NESTED.items()}
    fields |= {"electrons": "std::vector<ElectronAux>", "links": "std::vector<std::vector<ElementLink>>"}
    write_rntuple(name, "events", fields, fill)


def objects(name):
    """Leaf lists, and objects split into members and whole."""
    file, tree = new_tree(name)
    hit, fixed = array("f", [0] * 3), array("i", [0] * 4)
    count, list_, matrix = array("i", [0]), array("d", [0] * 8), array("f", [0] * 16)
    lorentz, polar = ROOT.TLorentzVector(), ROOT.Math.PtEtaPhiMVector()
    cartesian = ROOT.Math.XYZVector()
    lorentzes, polars = ROOT.std.vector["TLorentzVector"](), ROOT.std.vector["ROOT::Math::PtEtaPhiMVector"]()
    info = ROOT.EventInfoAux()
    tree.Branch("hit", hit, "x/F:y/F:z/F")
    tree.Branch("fixed", fixed, "fixed[2][2]/I")
    tree.Branch("count", count, "count/I")
    tree.Branch("list", list_, "list[count]/D")
    tree.Branch("matrix", matrix, "matrix[count][2]/F")
    tree.Branch("split", lorentz, 32000, 99)
    tree.Branch("whole", lorentz, 32000, 0)
    tree.Branch("polar", polar, 32000, 99)
    tree.Branch("polar_whole", polar, 32000, 0)
    tree.Branch("direction", cartesian, 32000, 0)
    tree.Branch("lorentzes", lorentzes, 32000, 99)
    tree.Branch("lorentzes_whole", lorentzes, 32000, 0)
    tree.Branch("polars", polars, 32000, 99)
    tree.Branch("polars_whole", polars, 32000, 0)
    tree.Branch("info", info, 32000, 0)
    derived = ROOT.Derived()
    tree.Branch("derived", derived, 32000, 0)
    for i in range(EVENTS):
        count[0] = size(i)
        for k in range(3):
            hit[k] = number(i, k)
        for k in range(4):
            fixed[k] = i - k
        for k in range(8):
            list_[k], matrix[2 * k], matrix[2 * k + 1] = number(i, k), number(k, i), -k
        lorentz.SetPxPyPzE(i, 2 * i, 3 * i, number(i))
        polar.SetCoordinates(number(i), i / 8, -i / 8, 0.5)
        cartesian.SetXYZ(i, i + 0.5, -i)
        info.runNumber, info.eventNumber, info.averageInteractionsPerCrossing = 1, 2**40 + i, number(i)
        derived.b, derived.d = number(i), -i
        fill_vector(lorentzes, [ROOT.TLorentzVector(k, i, -k, number(i, k)) for k in range(size(i))])
        fill_vector(polars, [ROOT.Math.PtEtaPhiMVector(number(i, k), k, -k, i) for k in range(size(i))])
        tree.Fill()
    file.Write()
    file.Close()


def reals(name):
    """Double32_t and Float16_t: as leaves and as members, with and without range and bits."""
    file, tree = new_tree(name)
    count = array("i", [0])
    tree.Branch("n", count, "n/I")
    buffers = []
    for letter, kind in (("d", "d"), ("f", "f")):
        for title, how in (("plain", ""), ("range", "[0,10]"), ("bits", "[0,10,12]"), ("mantissa", "[0,0,10]")):
            for form, shape in (("", ""), ("_fixed", "[2]"), ("_list", "[n]")):
                branch, buffer = f"{letter}_{title}{form}", array(kind, [0.0] * 8)
                tree.Branch(branch, buffer, f"{branch}{shape}/{letter}{how}")
                buffers.append(buffer)
    members, vector = ROOT.Reals(), ROOT.std.vector["Double32_t"]()
    values = array("d", [0] * 8)
    tree.Branch("member.", members, 32000, 99)
    tree.Branch("vector", vector)
    for i in range(EVENTS):
        count[0] = members.n = size(i)
        for k in range(8):
            values[k] = (i / 3 + k / 7) % 10
            for buffer in buffers:
                buffer[k] = values[k]
        ROOT.set_reals(members, values)
        fill_vector(vector, list(values)[: size(i)])
        tree.Fill()
    file.Write()
    file.Close()


def late_fields(name):
    """RNTuples to which fields were added while they were written, then merged as hadd does."""
    with tempfile.TemporaryDirectory() as folder:
        merger = ROOT.TFileMerger(False)
        merger.OutputFile(name, "RECREATE", 505)
        for part in range(2):
            path = os.path.join(folder, f"{part}.root")
            ROOT.write_late(path, part * EVENTS, EVENTS)
            merger.AddFile(path)
        assert merger.Merge()


def branches_of(owner, prefix=""):
    """Branches without sub-branches, by the path of their names."""
    for branch in owner.GetListOfBranches():
        path = f"{prefix}{branch.GetName()}"
        if branch.GetListOfBranches().GetEntries():
            yield from branches_of(branch, f"{path}/")
        else:
            yield path, branch


def ttree_values(tree, path):
    """Branch -> values of every event: by ROOT's leaves, or by RDataFrame where a leaf is a collection or an object.

    A member of a leaf list is called branch.member.
    """
    values, leaves = {}, {}
    for name, branch in branches_of(tree):
        found = list(branch.GetListOfLeaves())
        if name == "member./member.n":  # ROOT's leaf gives it as often as it says
            values[name] = frame_values(tree.GetName(), path, "member.n")
        elif found[0].GetTypeName() in NUMBERS:
            leaves |= {f"{name}.{leaf.GetName()}" if len(found) > 1 else name: leaf for leaf in found}
        elif OBJECT.match(found[0].GetTypeName()):
            values[name] = frame_values(tree.GetName(), path, name.rpartition("/")[2])
        else:
            print("no values of", path, name, found[0].GetTypeName())
    values |= {name: [] for name in leaves}
    for event in range(tree.GetEntries()):
        tree.GetEntry(event)
        for name, leaf in leaves.items():
            get = leaf.GetValueLong64 if "Int" in leaf.GetTypeName() or "Long" in leaf.GetTypeName() else leaf.GetValue
            values[name].append([get(k) for k in range(leaf.GetLen())])
    return values


def frame_values(tree, path, column):
    """The values of a column in every event, by RDataFrame."""
    frame = ROOT.RDataFrame(tree, path)
    kind = frame.GetColumnType(column)
    sign = "" if re.search("unsigned|uint", kind) else "signed"
    return [plain(value, sign) for value in frame.Take[kind](column).GetValue()]


def plain(value, sign=""):
    """Numbers, lists, and dictionaries of members of what RDataFrame gives."""
    members = {
        ROOT.TLorentzVector: lambda v: {"fP": {"fX": v.X(), "fY": v.Y(), "fZ": v.Z()}, "fE": v.E()},
        ROOT.Math.PtEtaPhiMVector: lambda v: {
            "fCoordinates": {"fPt": v.Pt(), "fEta": v.Eta(), "fPhi": v.Phi(), "fM": v.M()}
        },
        ROOT.EventInfoAux: lambda v: {
            m: getattr(v, m) for m in ("runNumber", "eventNumber", "averageInteractionsPerCrossing")
        },
        ROOT.Derived: lambda v: {"b": v.b, "d": v.d},
        ROOT.Math.XYZVector: lambda v: {"fCoordinates": {"fX": v.X(), "fY": v.Y(), "fZ": v.Z()}},
    }
    for kind, as_dict in members.items():
        if isinstance(value, kind):
            return as_dict(value)
    if isinstance(value, str):
        return signed(value) if sign else ord(value)
    return [plain(value[k], sign) for k in range(len(value))] if hasattr(value, "__len__") else value


def signed(char):
    return (ord(char) + 128) % 256 - 128


def rntuple_values(name, path):
    """Field -> what RNTupleReader.Show prints of it in every event; the values of char are printed as characters."""
    values = {}
    for event in range(ROOT.RNTupleReader.Open(name, path).GetNEntries()):
        text = bytes(ROOT.show(name, path, event)).decode("latin-1")
        text = re.sub(
            r'(?<="char": ).|(?<="char_list": ).*|(?<="char_fixed": ).*',
            lambda line: re.sub(r"[^][, ]", lambda found: str(signed(found[0])), line[0]),
            text,
        )
        for field, value in json.loads(text).items():
            values.setdefault(field, []).append(value)
    return values


def values_of(name, path):
    file = ROOT.TFile(path)
    found = file.Get(name)
    if path == "delphes.root":
        areas = {"Jet/Jet.Area": [[plain(jet.Area) for jet in event.Jet] for event in found]}
        return ttree_values(file.Get(name), path) | areas
    if isinstance(found, ROOT.TTree):
        return ttree_values(found, path)
    if path == "nanoaod_rntuple.root":  # RNTupleReader cannot show imported ones
        columns = map(str, ROOT.RDataFrame(name, path).GetColumnNames())
        return {column: frame_values(name, path, column) for column in columns}
    return rntuple_values(name, path)


def main():
    os.chdir(HERE)
    wanted = sys.argv[1:] or list(FILES)
    with tempfile.TemporaryDirectory() as folder:
        for source in ("classes.C", "rntuples.C"):
            assert ROOT.gSystem.CompileMacro(source, "k", "", folder)
    ROOT.gErrorIgnoreLevel = ROOT.kError
    values = json.loads(Path("values.json").read_text()) if sys.argv[1:] else {}
    for name, (write, tree) in ((name, FILES[name]) for name in wanted):
        Path(name).unlink(missing_ok=True)
        write(name)
        values[name] = values_of(tree, name)
        print(name, Path(name).stat().st_size, len(values[name]))
    Path("values.json").write_text(json.dumps(values, default=lambda number: number.item()))


FILES = {
    "nanoaod.root": (nanoaod, "Events"),
    "nanoaod_hadd.root": (hadd, "Events"),
    "nanoaod_rntuple.root": (nanoaod_rntuple, "Events"),
    "delphes.root": (delphes, "Delphes"),
    "physlite.root": (physlite, "CollectionTree"),
    "physlite_rntuple.root": (physlite_rntuple, "EventData"),
    "edm4hep.root": (edm4hep, "events"),
    "edm4hep_rntuple.root": (edm4hep_rntuple, "events"),
    "snapshot.root": (snapshot, "Events"),
    "snapshot_rntuple.root": (lambda name: snapshot(name, rntuple=True), "Events"),
    "vectors.root": (vectors, "Events"),
    "nested.root": (nested, "Events"),
    "nested_rntuple.root": (nested_rntuple, "events"),
    "objects.root": (objects, "Events"),
    "reals.root": (reals, "Events"),
    "numbers_rntuple.root": (lambda name: ROOT.write_numbers(name, EVENTS, 505), "events"),
    "objects_rntuple.root": (lambda name: ROOT.write_objects(name, EVENTS), "events"),
    "late_rntuple.root": (lambda name: ROOT.write_late(name, 0, EVENTS), "events"),
    "late_merged_rntuple.root": (late_fields, "events"),
}

if __name__ == "__main__":
    main()
