"""The names around a snapshot, and what is decided by them alone."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh_async.backends.file._names import NAME_BYTES, Generation, Names, is_temp

NAMES = Names("snap.json")
OLD, MIDDLE, NEW = (NAMES.generation(number, 10 * number) for number in (1, 2, 3))
ALL = [NEW, MIDDLE, OLD]


@given(st.integers(1, 10**12), st.integers(0, 2**64 - 1))
def test_a_generation_is_its_name(number: int, position: int) -> None:
    """Number and position can be read back from a generation's name, up to the highest uint64."""
    made = NAMES.generation(number, position)
    assert NAMES.parse(made.name) == Generation(number, position, made.name)


@given(st.lists(st.tuples(st.integers(1, 10**10 - 1), st.integers(0, 2**64 - 1)), unique=True))
def test_names_sort_as_generations(facts: list[tuple[int, int]]) -> None:
    """In a listing of files, generations stand in the order of their age."""
    made = [NAMES.generation(*fact) for fact in facts]
    assert [g.name for g in sorted(made)] == sorted(g.name for g in made)
    assert NAMES.generations(g.name for g in made) == sorted(made, reverse=True)


@pytest.mark.parametrize(
    "name",
    [
        "snap.json",
        ".snap.json.lock",
        "snap.json.old",
        "snap.json.1-2",
        "snap.json.0000000001-2",
        "snap.json.0000000001-00000000000000000002.gz",
        "snap.json.0000000001-0000000000000000000x",
        "snap.json.0000000001-00000000000000000002\n",
        "snap.json.000000000१-00000000000000000002",
        "snapxjson.0000000001-00000000000000000002",
        "other.json.0000000001-00000000000000000002",
        "a.snap.json.0000000001-00000000000000000002",
        "snap.json.corrupt-0000000001",
        "",
    ],
)
def test_what_is_no_generation(name: str) -> None:
    """What only looks like a generation's name, or is another snapshot's, is not one."""
    assert NAMES.parse(name) is None
    assert NAMES.generations([name]) == []


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_any_name_can_be_a_snapshots(name: str) -> None:
    """Whatever characters a snapshot's name has, its generations are told from it and from each other."""
    names = Names(name)
    made = names.generation(7, 8)
    assert names.parse(made.name) == made
    assert names.parse(name) is None
    assert len({name, names.lock, names.corrupt("00ff"), made.name}) == 4


@pytest.mark.parametrize(
    ("name", "temp"),
    [
        ("snapshot-0123456789abcdef.tmp", True),
        ("snapshot-1234567.tmp", True),
        ("snapshot-.tmp", False),
        ("snapshot.tmp", False),
        ("snapshot-1.tmp.bak", False),
        ("my-snapshot-1.tmp", False),
        ("snapshot-1.TMP", False),
        ("snapshot-1/2.tmp\n", False),
    ],
)
def test_temps_are_known_by_name(name: str, temp: bool) -> None:
    """Ours and the Go package's temp files are known by their names; others' are not."""
    assert is_temp(name) is temp


@pytest.mark.parametrize("letter", ["a", "ü", "長"])
def test_the_longest_name(letter: str) -> None:
    """A name is too long when the longest of those around it, in bytes, would not fit into a directory."""
    width = len(letter.encode())
    fits = letter * ((NAME_BYTES - 32) // width)
    names = Names(fits)
    assert not names.too_long()
    assert Names(fits + letter).too_long()
    longest = (names.generation(10**9, 2**64 - 1).name, names.lock, names.corrupt("f" * 8))
    assert all(len(os.fsencode(name)) <= NAME_BYTES for name in longest)


def test_numbers_go_up() -> None:
    """The next number is above the newest one's, and 1 where there is none."""
    assert NAMES.next_number([]) == 1
    assert NAMES.next_number(ALL) == 4


@pytest.mark.parametrize(
    ("latest", "kept"),
    [(NEW, [NEW, MIDDLE, OLD]), (MIDDLE, [MIDDLE, OLD]), (OLD, [OLD]), (None, [NEW, MIDDLE, OLD])],
)
def test_kept_ends_at_the_latest(latest: Generation | None, kept: list[Generation]) -> None:
    """What is newer than the latest was never the latest: it is an orphan, and not kept."""
    assert NAMES.kept(ALL, latest) == kept
    assert NAMES.orphans(ALL, latest) == ALL[: -len(kept)]


@pytest.mark.parametrize(
    ("latest", "keep", "surplus"),
    [
        (NEW, 1, [MIDDLE, OLD]),
        (NEW, 2, [OLD]),
        (NEW, 3, []),
        (NEW, 9, []),
        (MIDDLE, 1, [NEW, OLD]),
        (MIDDLE, 2, [NEW]),
        (None, 1, [NEW, MIDDLE, OLD]),
        (None, 2, [MIDDLE, OLD]),
        (None, 4, []),
    ],
)
def test_surplus(latest: Generation | None, keep: int, surplus: list[Generation]) -> None:
    """As many stay as are to be kept, the latest among them, whether it has a generation's name or not."""
    assert NAMES.surplus(ALL, latest, keep) == surplus


@given(
    st.lists(st.integers(1, 40), unique=True).map(lambda numbers: [NAMES.generation(n, n) for n in numbers]),
    st.integers(1, 10),
    st.data(),
)
def test_surplus_never_holds_the_latest(generations: list[Generation], keep: int, data: st.DataObject) -> None:
    """Whatever is there, the latest stays, and of its elders the newest."""
    generations.sort(reverse=True)
    latest = data.draw(st.sampled_from(generations)) if generations else None
    surplus = NAMES.surplus(generations, latest, keep)
    stay = [g for g in generations if g not in surplus]
    assert latest is None or stay[0] == latest
    assert len(stay) <= keep
    older = [g for g in generations if latest is None or g <= latest]
    assert stay == older[: len(stay)]


def test_set_aside_under_a_name_of_its_own() -> None:
    """A damaged snapshot's new name begins with its own, and is neither a generation's nor a temp file's."""
    name = NAMES.corrupt("00c0ffee")
    assert re.fullmatch(r"snap\.json\.corrupt-[0-9a-f]+", name)
    assert NAMES.parse(name) is None
    assert not is_temp(name)
