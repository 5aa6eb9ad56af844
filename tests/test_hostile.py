"""Reading costs a small multiple of the file, whatever it says of itself: the files of `bench/hostile.py`."""

from __future__ import annotations

import re

import hostile
import pytest
from clock import measured, slowness

pytest.importorskip("resource", reason="limits of a process are POSIX's")


@pytest.mark.parametrize("name", hostile.FILES)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_costs_little_and_ends_in_a_clear_error(name, tmp_path):
    outcome = hostile.try_file(name, tmp_path)
    assert not outcome.wrong


SAYS = {
    "zip: a deflated pickle": "compressed",
    "zip: a bzip2 pickle": "compressed",
    "zip: a terabyte of holes": "only .* were ever written",
    "zip: attributes of our functions": "attributes for a Name",
    "zip: attributes of a storage": "attributes for a StorageRecord",
    "zip: 8 MB of lists": "more steps than a file of this size",
    "zip: 3 GB of bytes in 20": "ends within an opcode",
    "expanded weights": "made of .* bytes that many of them share",
    "300 tensors on one storage": "made of .* bytes that many of them share",
    "a negative view": "resolve_neg",
    "header: nested": "nested too deeply",
    "config.json: nested": "nested too deeply",
    "head: 20 000 blocks": "20000",
}


@pytest.mark.parametrize("name", SAYS)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_says_what_is_wrong(name, tmp_path):
    assert re.search(SAYS[name], hostile.try_file(name, tmp_path).message)


def test_costs_are_in_the_machines_own_measure():
    """Ten times the work that the measure is made of costs about ten times as much, on any machine."""
    with measured() as cost:
        for _ in range(10):
            slowness()
    assert 0.1 < cost.seconds < 2
