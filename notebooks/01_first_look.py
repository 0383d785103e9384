# %% [markdown]
# # A first look at jagged events
# Scan the simulated ttH(bb) sample that comes with the project, look at multiplicities, and draw one batch.

# %%
from pathlib import Path

import numpy as np

from mlaas4hep_tf import RootDataset, scan

data = (
    Path(__file__).parent.parent / "benchmarks" / "data" / "tth"
    if "__file__" in globals()
    else "../benchmarks/data/tth"
)
specs = scan(data, tree="events", exclude=["isSignal"], progress=False)
print(f"{specs.entries} events, {len(specs.branches)} branches, {len(specs.vector_names)} columns")

# %%
for group, members in specs.groups.items():
    events = members[0].multiplicities
    mean = np.average(range(len(events)), weights=events)
    print(f"{group:8} {len(members):3} branches, {mean:5.2f} objects an event on average, at most {members[0].largest}")

# %% [markdown]
# Each element is a batch: the padded vector, the mask (True = real value) and the label.

# %%
ds = RootDataset(data, specs, labels={"*signal*": 1, "*": 0}, mask=True)
x, y = next(iter(ds))
print(f"vector {x['vector'].shape}, {np.mean(x['mask']):.0%} of it real values, {int(sum(y))} signal events")
