"""What a product's code is, told in digests: a cube must not mix numbers of two codes.

alpage's own products change their version with their numbers. Those of users change under the
same version while they are written, so that each stage's code counts as one of its inputs.
"""

import ast
import functools
import inspect
import linecache
import re
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from alpage.cube.ledger import digest
from alpage.product import Layer, Product, Series, Stage

OWN = Path(__file__).resolve().parents[1]
OTHERS = (
    OWN,
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
)


def code_digests(product: Product, module: str) -> dict[str, str]:
    """Return a digest of each stage's code, by the stage's name; none for alpage's own products.

    `module` is where the study finds the product. Followed are the functions, classes and
    constants that a stage's functions name, where they lie in the same package or are not
    installed; comments, blank lines and docstrings do not count. A function that is reached in
    another way, as by `getattr` or through a parameter, is not seen.

    >>> from alpage.products.snow import snow
    >>> code_digests(snow, "alpage.products.snow")
    {}
    """
    package = module.split(".")[0]
    if package == "alpage":
        return {}
    return {stage.name: _digest_of(stage, product, package) for stage in product.stages}


def _digest_of(stage: Stage, product: Product, package: str) -> str:
    text = _Text(package)
    text.add(product.parameters)
    text.add(stage)
    high, low = digest(text.lines)
    return f"{high:016x}{low:016x}"


class _Text:
    """What was found from some values on."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.lines: list[str] = []
        self._seen: set[int] = set()

    def add(self, value: Any) -> None:
        """Take in a value that a function names, and what it names in turn."""
        match value:
            case FunctionType() | type() | ModuleType():
                is_new = id(value) not in self._seen
                self._seen.add(id(value))
                self.lines.append(_name(value))
                if is_new and self._is_followed(value):
                    self._follow(value)
            case Layer():
                # What is declared of layers is compared by itself, and some of it only gates.
                self.lines.append(f"{value.path} {value.dtype} {value.fill} {value.scale}")
            case Series():
                self.lines.append(value.name)
            case functools.partial():
                self._add_all("partial", (value.func, value.args, value.keywords))
            case np.ndarray():
                self.lines.append(f"{value.dtype} {value.shape} {value.tolist()}")
            case Mapping():
                self._add_all("mapping", (part for pair in value.items() for part in pair))
            case set() | frozenset():
                self._add_all("set", sorted(value, key=repr))
            case tuple() | list():
                self._add_all("sequence", value)
            case _ if is_dataclass(value):
                self._add_all(
                    _name(type(value)), (getattr(value, one.name) for one in fields(value))
                )
            case _ if inner := getattr(value, "py_func", getattr(value, "__wrapped__", None)):
                # Compiled by numba, or kept by functools.
                self.add(inner)
            case _ if callable(value):
                self.lines.append(_name(value))
                self._add_all("called", (type(value), getattr(value, "__dict__", {})))
            case _:
                # Without addresses.
                self.lines.append(re.sub(r" at 0x[0-9a-f]+", "", repr(value)))

    def _add_all(self, kind: str, values: Iterable[Any]) -> None:
        self.lines.append(kind)
        for value in values:
            self.add(value)

    def _follow(self, value: FunctionType | type | ModuleType) -> None:
        if isinstance(value, FunctionType):
            self.lines.append(_function_text(value.__code__))
            self._add_named(value)
            return
        self.lines.append(_text(value))
        if isinstance(value, type):
            self._add_all("bases", value.__bases__)
        for inner in vars(value).values():
            bare = getattr(inner, "py_func", getattr(inner, "__func__", inner))
            bare = getattr(bare, "fget", bare)
            if isinstance(bare, FunctionType) and self._is_followed(bare):
                self._add_named(bare)
            elif isinstance(bare, type | ModuleType) and self._is_followed(bare):
                self.add(bare)

    def _add_named(self, function: FunctionType) -> None:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        self._add_all("given", (function.__defaults__, function.__kwdefaults__, *cells))
        for name in sorted(set(_names(function.__code__))):
            if name in function.__globals__:
                self.lines.append(name)
                self.add(function.__globals__[name])

    def _is_followed(self, value: FunctionType | type | ModuleType) -> bool:
        name = value.__name__ if isinstance(value, ModuleType) else value.__module__
        if name.split(".")[0] == self.package:
            return True
        found = getattr(sys.modules.get(name), "__file__", None)
        return found is not None and not any(
            Path(found).resolve().is_relative_to(place) for place in OTHERS
        )


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    if isinstance(value, ModuleType):
        return value.__name__
    return f"{named.__module__}.{named.__qualname__}"


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function looks up, and those inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


# Read once: what runs is what was imported, while the file may be edited since.
@functools.cache
def _text(value: type | ModuleType) -> str:
    try:
        return _bare(inspect.getsource(value))
    except OSError:
        # Made while running.
        return _name(value)


@functools.cache
def _function_text(code: CodeType) -> str:
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    found = []
    for node in ast.walk(ast.parse("".join(lines))):
        match node:
            case ast.FunctionDef(name=code.co_name):
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            case ast.Lambda() if code.co_name == "<lambda>":
                first = node.lineno
            case _:
                continue
        if first == code.co_firstlineno:
            found.append(_bare(ast.unparse(node)))
    # Made while running, there is no text but what Python made of it.
    return "\n".join(found) or repr((code.co_code, code.co_consts, code.co_names))


def _bare(text: str) -> str:
    """Source as Python reads it, without docstrings."""
    tree = ast.parse(textwrap.dedent(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
