"""No version of a library with a known hole in what we use it for can be installed with this package: see docs/security.md."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
REQUIREMENTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
ALLOWED = {each.name: each.specifier for each in map(Requirement, REQUIREMENTS)}
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)

HOLES = [
    # library, first version without the hole, the last ones with it, name, what it is
    ("torch", "2.10.0", ("2.6.0", "2.9.1"), "CVE-2026-24747", "torch.load(weights_only=True) corrupts memory"),
    ("pillow", "12.1.1", ("11.3.0", "12.1.0"), "CVE-2026-25990", "a write out of bounds"),
    ("pillow", "12.2.0", ("12.1.1",), "CVE-2026-40192", "decompression without a bound"),
    ("pillow", "12.3.0", ("12.2.0",), "CVE-2026-59197", "the five holes that 12.3 closed"),
]


@pytest.mark.parametrize(("library", "fixed", "with_hole", "name", "what"), HOLES, ids=[hole[3] for hole in HOLES])
def test_versions_with_a_hole_are_refused(library, fixed, with_hole, name, what):
    assert not [each for each in with_hole if each in ALLOWED[library]], f"{name}: {what}"
    assert Version(version(library)) >= Version(fixed)
    assert Version(PINNED[library]) >= Version(fixed)
    assert name in (ROOT / "docs" / "security.md").read_text()


def test_the_floors_are_where_the_holes_end():
    """A floor that is lowered is noticed, whatever versions there are below it."""
    for library in ("torch", "pillow"):
        floor = re.search(r">=([\d.]+)", str(ALLOWED[library]))
        assert floor
        assert Version(floor[1]) >= max(Version(fixed) for name, fixed, *_ in HOLES if name == library)


def test_the_versions_that_the_tests_passed_with_are_allowed():
    assert not [name for name, specifier in ALLOWED.items() if name in PINNED and PINNED[name] not in specifier]
