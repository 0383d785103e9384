"""Which branches the study uses, and which it must not: shared by all ways, free of any framework."""

from __future__ import annotations

TREE = "events"
TRUTH = ("isSignal", "Jet_flavour", "FatJet_hasb")  # what only the simulation knows; the last two are not in every file
EVENT_WEIGHT = "genWeight"
FLAT = (
    "btag1", "btag3", "drbb", "fat1mass", "fat1pt", "ht", "jet1pt", "jet6pt", "mbb", "met", "metphi", "nBJet",
    "nFatJet", "nJet", "nLepton", "nPair", "ptbb",
)  # fmt: skip
# of the first fat jet, jet and pair: with the flat branches 27 numbers an event, as many as the paper's ntuples had
FIRST = (
    "FatJet_girth2", "FatJet_nch", "FatJet_ptd", "Jet_btag", "Jet_mass", "Jet_width", "Pair_deta", "Pair_dphi",
    "Pair_ptasym", "Pair_tag",
)  # fmt: skip
SPLIT = (0.64, 0.16, 0.20)
PARTS = ("train", "validation", "test")
EPOCHS, BATCH = 5, 100
