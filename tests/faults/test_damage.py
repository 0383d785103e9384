"""Files with random damage: right numbers or a clear error, never a hang, a crash or a flood of memory."""

import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.soak import cases, report
from helpers.streams import quiet_scan

from mlaas4hep_tf import ReadOptions, ReadPolicy, RootDataset
from mlaas4hep_tf.errors import MlaasError
from mlaas4hep_tf.testing import COMPRESSIONS, make_events, write_tree

MUTATIONS = cases(40, 2000)
POLICY = ReadPolicy(work_timeout_s=20, retries=0)
GIB = 1 << 30


def mutate(content, chance):
    """Damage of one of several kinds somewhere in a file."""
    damaged = bytearray(content)
    at = chance.randrange(len(damaged))
    kind = chance.choice(("bit", "byte", "run", "cut", "swap", "number"))
    if kind == "bit":
        damaged[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        damaged[at] = chance.choice((0, 1, 127, 128, 255))
    elif kind == "run":
        damaged[at : at + 16] = chance.randbytes(len(damaged[at : at + 16]))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "swap":
        other = chance.randrange(len(damaged))
        damaged[at], damaged[other] = damaged[other], damaged[at]
    else:
        damaged[at : at + 4] = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)).to_bytes(4, "big")
    return bytes(damaged)


def peak_of_readers():
    peak = 0
    for process in psutil.Process().children(recursive=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            peak = max(
                peak, *(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")), 0
            )
    return peak


def numbers_of(path, specs):
    ds = RootDataset(
        path, specs.unbound(), normalize=None, batch_size=50, shuffle=False, read=ReadOptions(workers=1, policy=POLICY)
    )
    return np.concatenate([x.numpy() for x in ds])


def outcome_of(path, specs, want):
    """Everything but an error of ours, in one line that names the file, ends the test."""
    try:
        quiet_scan(path, read=ReadOptions(workers=1, policy=POLICY))
        got = numbers_of(path, specs)
    except MlaasError as error:
        return "error" if "damaged" in str(error) and "\n" not in str(error) else f"unclear error: {error}"
    return "same" if np.array_equal(got, want, equal_nan=True) else "other"


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(cases(300, 7200))
@pytest.mark.parametrize("part", range(4))
def test_random_damage(tmp_path, part):
    chance = random.Random(part)
    outcomes = Counter()
    compression = list(COMPRESSIONS)[part]
    sound = write_tree(tmp_path / "sound.root", make_events(60, seed=part), basket=20, compression=compression)
    specs, content = quiet_scan(str(sound), read=ReadOptions(workers=1)), sound.read_bytes()
    want = numbers_of(str(sound), specs)
    for number in range(MUTATIONS // 4):
        path = tmp_path / f"damaged{number}.root"
        path.write_bytes(mutate(content, chance))
        outcomes[outcome_of(str(path), specs, want)] += 1
        path.unlink()
    assert peak_of_readers() < GIB
    assert set(outcomes) <= {"same", "error", "other"}
    assert outcomes["error"] > 0
    report(f"mutated {compression} files", **outcomes)
    if compression in ("zlib", "lz4"):
        # what no checksum covers: headers, and baskets that are stored as they are
        assert outcomes["other"] < 0.2 * sum(outcomes.values())
