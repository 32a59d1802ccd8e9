"""A stage's code is told by a digest that changes with what it computes, and with nothing else."""

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alpage.engine.code import code_digests

HELPER = '''
"""Beside the product."""
def halved(values):
    return values / 2


def late(values):
    return values


def spare(values):
    return values
'''
PRODUCT = '''
"""A product of two stages."""
import functools
import logging

import numba
import numpy as np

import {helper}
from alpage import Band, Calendar, Derive, Layer, Observe, Parameters, Product
from alpage.science.indices import normalized_difference
from {helper} import halved

WEIGHTS = np.array([1.0, 2.0])
RANDOM = np.random.default_rng(0)
log = logging.getLogger(__name__)
kept = {{}}
DAILY = Layer("wet", Calendar.DAY, "int16", -1, valid_range=(0, 9))
LONGEST = Layer("longest", Calendar.YEAR, "int16", -1)


class Mine(Parameters):
    bound: float = 0.5


class Model:
    def __init__(self, step):
        self.step = step

    def __call__(self, values):
        return values + self.step


MODEL = Model(5)
STEPS = [1]
STEPS.append(2)


@numba.njit
def inner(values):
    return values + 1


def weighted(values):
    """Weigh."""
    # By hand.
    return inner(values) * WEIGHTS


def one(context):
    return 1


def unused(values):
    return values


def observe(seen, power=1):
    from {helper} import late

    kept["seen"] = log.name
    MODEL(late(STEPS))
    return {{"wet": [weighted(halved(value)) ** power for value in seen.bands.values()]}}


def longest(segment, most):
    return {{"longest": {helper}.halved(segment.layers["day/wet"]) > most}}


product = Product(
    "wet",
    "1",
    (
        Observe("observe", (Band("green"),), (DAILY,), observe, halo_px=one),
        Derive("long", ("day/wet",), (LONGEST,), Calendar.YEAR, functools.partial(longest, most=7)),
    ),
    parameters=Mine,
)
'''
Digests = Callable[..., dict[str, str]]
numbers = itertools.count()


@pytest.fixture
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Digests:
    """A function that gives the digests of the product, after texts in it were replaced."""
    monkeypatch.syspath_prepend(tmp_path)

    def digests_of(*edits: tuple[str, str]) -> dict[str, str]:
        # A folder of its own: Python keeps what it has compiled by name and second.
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        sys.path.insert(0, str(folder))
        for name, text in (("beside_code", HELPER), ("product_code", PRODUCT)):
            text = text.replace("{{", "{").replace("}}", "}").replace("{helper}", "beside_code")
            for old, new in edits:
                text = text.replace(old, new)
            (folder / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = importlib.import_module("product_code")
        return code_digests(module.product, "product_code", "product")

    return digests_of


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        pytest.param("# By hand.", "# By two hands.\n\n", set(), id="comment"),
        pytest.param('"""Weigh."""', '"""Weigh them."""', set(), id="docstring"),
        pytest.param("valid_range=(0, 9)", "valid_range=(0, 8)", set(), id="gate"),
        pytest.param("inner(values) * W", "inner(values) / W", {"observe"}, id="helper"),
        pytest.param("[1.0, 2.0]", "[1.0, 2.5]", {"observe"}, id="array"),
        pytest.param("values + 1", "values + 2", {"observe"}, id="compiled"),
        pytest.param("power=1", "power=2", {"observe"}, id="default"),
        pytest.param("    return 1", "    return 2", {"observe"}, id="halo"),
        pytest.param("halo_px=one", "halo_px=lambda _: 1", {"observe"}, id="lambda"),
        pytest.param("Model(5)", "Model(6)", {"observe"}, id="instance"),
        pytest.param("values + self.step", "values * self.step", {"observe"}, id="method"),
        pytest.param("STEPS.append(2)", "STEPS.append(3)", {"observe"}, id="changed-list"),
        pytest.param(
            "def late(values):\n    return",
            "def late(values):\n    return -",
            {"observe"},
            id="late-import",
        ),
        pytest.param(
            "def spare(values):\n    return", "def spare(values):\n    return -", set(), id="spare"
        ),
        pytest.param(
            "def unused(values):\n    return",
            "def unused(values):\n    return -",
            set(),
            id="unused",
        ),
        pytest.param('"green"', '"red"', {"observe"}, id="band"),
        pytest.param("most=7", "most=8", {"long"}, id="partial"),
        pytest.param("segment.layers", "-segment.layers", {"long"}, id="derive"),
        pytest.param('"longest", Cal', '"l", Cal', {"long"}, id="layer"),
        pytest.param("values / 2", "values / 3", {"observe", "long"}, id="module-beside"),
        pytest.param("bound: float = 0.5", "bound: float = 1", {"observe", "long"}, id="defaults"),
    ],
)
def test_what_computes_tells(digests: Digests, old: str, new: str, changed: set[str]) -> None:
    before, again, after = digests(), digests(), digests((old, new))
    assert before == again
    assert {name for name in before if before[name] != after[name]} == changed


def test_what_a_module_holds_while_it_runs_tells_nothing(digests: Digests) -> None:
    before = digests()
    module = sys.modules["product_code"]
    module.kept["more"] = object()
    module.RANDOM.random()
    module.log.setLevel("ERROR")
    module.MODEL.step = 7
    assert code_digests(module.product, "product_code", "product") == before


def test_functions_that_are_no_plain_ones_count_by_all_that_the_product_names(
    digests: Digests,
) -> None:
    edits = [
        ("product = Product(", "make = lambda: Product("),
        ("parameters=Mine,\n)", "parameters=Mine,\n)\nproduct = make()"),
    ]
    bound = ("DAILY,), observe,", "DAILY,), Model(3).__call__,")
    before, after = (
        digests(*edits, bound),
        digests(*edits, bound, ("values + self", "values - self")),
    )
    assert before["observe"] != after["observe"]


def test_what_was_imported_counts_not_what_is_written_since(digests: Digests) -> None:
    before = digests()
    module = sys.modules["product_code"]
    Path(str(module.__file__)).write_text("def observe(seen): return {}\n")
    assert code_digests(module.product, "product_code", "product") == before
