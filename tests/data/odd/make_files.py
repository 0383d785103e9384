"""Writes the files of this folder with ROOT 6.40 (pip install --pre root), except those that README.md names.

python make_files.py
"""

import os
from array import array
from collections.abc import Callable

import ROOT  # type: ignore[import-not-found]  # of another environment

n, x, y, z = array("i", [0]), array("f", [0]), array("f", [0]), array("f", [0])
shorts, doubles = array("h", [0] * 10), array("d", [0] * 4)
floats, more, pairs = array("f", [0] * 20), array("h", [0] * 20), array("f", [0] * 60)


def write(name: str, fill: Callable[[ROOT.TTree], None]) -> None:
    file = ROOT.TFile(name, "RECREATE", "", 505)
    tree = ROOT.TTree("Events", "Events")
    fill(tree)
    tree.Write()
    file.Close()


def flat_offsets(tree: ROOT.TTree) -> None:
    """Numbers and arrays in baskets that have entry offsets although all entries are of one size."""
    branches = tree.Branch("x", x, "x/F"), tree.Branch("s", shorts, "s[10]/S"), tree.Branch("d", doubles, "d[2][2]/D")
    for branch in branches:
        branch.SetEntryOffsetLen(1000)
        branch.SetBasketSize(2000)
    for i in range(200):
        x[0] = i
        shorts[:] = array("h", [i + k for k in range(10)])
        doubles[:] = array("d", [10 * i + k for k in range(4)])
        tree.Fill()


def offset_map(tree: ROOT.TTree) -> None:
    """Lists in baskets without entry offsets (kGenerateOffsetMap): the counter says where an entry begins."""
    features = ROOT.TIOFeatures()
    features.Set("kGenerateOffsetMap")
    tree.SetIOFeatures(features)
    tree.Branch("n", n, "n/I", 900)
    tree.Branch("pt", floats, "pt[n]/F", 2000)
    tree.Branch("id", more, "id[n]/S", 1500)
    for i in range(600):
        n[0] = i % 7
        for k in range(n[0]):
            floats[k], more[k] = i + k / 8, k
        tree.Fill()


def unequal(tree: ROOT.TTree) -> None:
    """Branches with other numbers of entries than their tree: y 50, z none, w 120 of 100."""
    tree.Branch("x", x, "x/F")
    for i in range(100):
        x[0] = i
        tree.Fill()
    rest = tree.Branch("y", y, "y/F")
    for i in range(50):
        y[0] = i
        rest.Fill()
    tree.Branch("z", z, "z/F")
    beyond = tree.Branch("w", z, "w/F")
    for _ in range(120):
        beyond.Fill()
    tree.SetEntries(100)


def shared_counter(tree: ROOT.TTree) -> None:
    """Lists with a common counter of which b was filled when it said something else; each holds the same in total."""
    branches = [tree.Branch("n", n, "n/I"), tree.Branch("a", floats, "a[n]/F"), tree.Branch("m", pairs, "m[n][3]/F")]
    other = tree.Branch("b", more, "b[n]/S")
    for i in range(100):
        floats[:] = array("f", [i + k for k in range(20)])
        more[:] = array("h", range(20))
        pairs[:] = array("f", [100 * i + k for k in range(60)])
        n[0] = i % 4
        for branch in branches:
            branch.Fill()
        n[0] = (i + 2) % 4
        other.Fill()
    tree.SetEntries(100)


def with_friend(name: str) -> None:
    """A tree in a folder, with a friend in a file that is not there."""
    file = ROOT.TFile(name, "RECREATE", "", 505)
    file.mkdir("nominal").cd()
    tree = ROOT.TTree("Events", "Events")
    tree.Branch("x", x, "x/F")
    for i in range(10):
        x[0] = i
        tree.Fill()
    extra = ROOT.TFile("extra.root", "RECREATE")
    ROOT.TTree("Extra", "Extra").Write()
    extra.Close()
    tree.AddFriend("Extra", "extra.root")
    file.Write()
    file.Close()
    os.remove("extra.root")


def killed_map(name: str) -> None:
    """The same with lists without entry offsets: what was saved last is in the tree's own header."""
    if os.fork() == 0:
        file = ROOT.TFile(name, "RECREATE", "", 505)  # noqa: F841 (open until the job ends)
        tree = ROOT.TTree("Events", "Events")
        features = ROOT.TIOFeatures()
        features.Set("kGenerateOffsetMap")
        tree.SetIOFeatures(features)
        tree.Branch("n", n, "n/I")
        tree.Branch("pt", floats, "pt[n]/F")
        tree.SetAutoFlush(50)
        for i in range(180):
            n[0] = i % 7
            tree.Fill()
        tree.AutoSave("SaveSelf")
        os._exit(0)
    os.wait()


def killed(name: str, save: str) -> None:
    """What is left of a job that ended before it closed its file."""
    if os.fork() == 0:
        file = ROOT.TFile(name, "RECREATE", "", 505)  # noqa: F841 (open until the job ends)
        tree = ROOT.TTree("Events", "Events")
        tree.Branch("x", x, "x/F")
        tree.SetAutoFlush(50)
        for i in range(180):
            x[0] = i
            tree.Fill()
        tree.AutoSave(save)
        for i in range(180, 300):
            x[0] = i
            tree.Fill()
        os._exit(0)
    os.wait()


for make in (flat_offsets, offset_map, unequal, shared_counter):
    write(f"{make.__name__}.root", make)
with_friend("with_friend.root")
killed("killed_saved.root", "SaveSelf")
killed_map("killed_map.root")
killed("killed_unsaved.root", "FlushBaskets")
