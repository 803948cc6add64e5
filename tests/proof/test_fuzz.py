"""Files that are nearly right: mutated by Hypothesis in their structure, and by atheris where the code branches."""

from __future__ import annotations

import gc
import random
import re
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .._faults import environment
from .fuzz import LARGEST_BYTES, TARGETS, TOLD

SECONDS = 2
LEAST_RUNS = 100
MOST_BYTES = 24 * LARGEST_BYTES
INTERESTING = [
    b"\0", b"\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"\xff" * 8, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
    b"\xc1", b"[" * 40, b"\x91" * 2000, b'{"a":' * 2000, b'"\\ud800"', b"1e999", b"9" * 400, b"-1", b"\xed\xa0\x80",
    b"", b"18446744073709551616", b"null", b"\x28\xb5\x2f\xfd", b"\n", b'"format":2',
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with some pieces of it replaced, moved, left out, or taken from another one."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from([0, 0, 1, 1, 2, 4, 8, 32, 1 << 20])))
        other = draw(st.sampled_from(seeds))
        at = draw(st.integers(0, len(other)))
        piece = draw(
            st.one_of(
                st.sampled_from(INTERESTING),
                st.binary(max_size=9),
                st.just(other[at : at + end - begin]),
                st.just(data[begin:end] * 2),
                st.integers(0, 7).map(lambda bit, a=data[begin:end]: bytes(byte ^ (1 << bit) for byte in a)),
            )
        )
        data = data[:begin] + piece + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    """Whatever is done to what is right, what reads it raises nothing but errors with a name."""
    target = TARGETS[name]
    for seed in target.seeds:
        target.call(seed)

    @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(mutated(target.seeds))
    def search(data: bytes) -> None:
        target.call(data)

    search()


def test_memory() -> None:
    """Nothing that is nearly right takes more memory than what it may be decompressed to allows, some times over."""
    chance = random.Random(1)
    tracemalloc.start()
    try:
        for target in TARGETS.values():
            for _ in range(150):
                data = bytearray(chance.choice(target.seeds))
                for _ in range(chance.randrange(1, 5)):
                    at = chance.randrange(len(data) + 1)
                    data[at : at + chance.choice([0, 1, 4])] = chance.choice(INTERESTING)
                target.call(bytes(data))
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
        gc.collect()


def guided(name: str, seconds: int) -> subprocess.CompletedProcess[str]:
    """Run one target under atheris."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.proof.fuzz", name, str(seconds)]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=60 + 5 * seconds, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed: pip install atheris")
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str) -> None:
    """The same, of bytes that were found by the branches they take."""
    done = guided(name, SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert found is not None, done.stderr[-1000:]
    assert int(found[1]) > LEAST_RUNS


def test_what_is_told_is_named() -> None:
    """The errors that pass are those of the package, and no wider ones."""
    assert all(error.__module__ == "swoosh_async.errors" for error in TOLD)
