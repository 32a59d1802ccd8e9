"""What a product's code is, told in digests: a cube must not mix numbers of two codes.

alpage's own products change their version with their numbers. Those of users change under the
same version while they are written, so that each stage's code counts as one of its inputs. It is
read as text and never as values: what a module holds changes while it runs, and from process to
process.
"""

import ast
import contextlib
import functools
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType
from typing import Any

from alpage.cube.ledger import digest
from alpage.errors import ProductError
from alpage.product import Derive, Gather, Observe, Product, Stage, Summarise, stage_layers

OTHERS = (
    Path(__file__).resolve().parents[1],
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
)
Place = tuple[str, str]
"""A module's name, and a name in it; empty for all of it."""


def code_digests(product: Product, module: str, name: str) -> dict[str, str]:
    """Return a digest of each stage's code, by the stage's name; none for alpage's own products.

    `module` is where the study finds the product, by `name`. Counted is the text of what a
    stage's functions name, and of what that names in turn, in modules of the same package and in
    those that are not installed; comments, blank lines and docstrings are not. Of functions that
    are no plain ones of a module (lambdas, methods, closures) all that the product names counts.
    What is reached by `getattr` or through a parameter is not seen. A module's text is that of
    the first call after its import.

    Raises ProductError where a file is no Python any more.

    >>> from alpage.products.snow import snow
    >>> code_digests(snow, "alpage.products.snow", "snow")
    {}
    """
    modules = _Modules(module.split(".")[0])
    if module.split(".")[0] == "alpage" or modules.named(module) is None:
        return {}
    modules.remember()
    found = {}
    for stage in product.stages:
        roots, given = set[Place](), []
        for one in (*_functions(stage), product.parameters):
            if isinstance(one, functools.partial) and _is_plain([one.args, one.keywords]):
                given.append([one.args, one.keywords])
                one = one.func
            roots.add(_root(one, modules) or (module, name))
        high, low = digest(_declared(stage), given, sorted(_reached(roots, modules)))
        found[stage.name] = f"{high:016x}{low:016x}"
    return found


def _functions(stage: Stage) -> list[Any]:
    match stage:
        case Observe():
            return [stage.function, stage.halo_px, *(table.shape for table in stage.tables)]
        case Gather():
            return [stage.function, stage.shape]
        case Derive():
            return [stage.function]
        case Summarise():
            return [stage.count, stage.finish, stage.shape]


def _declared(stage: Stage) -> list[Any]:
    """What a stage says besides its functions; what layers say of gate and readers is left out."""
    layers = [(one.path, one.dtype, one.fill, one.scale) for one in stage_layers(stage)]
    told: list[Any] = [type(stage).__name__, stage.name, layers]
    match stage:
        case Observe():
            told += [[(band.name, band.kernel) for band in stage.bands], stage.by_zone]
            told += [[(table.name, table.by_zone) for table in stage.tables]]
        case Gather():
            told += [stage.table, stage.by_zone]
        case Derive():
            told += [stage.reads, stage.tables, stage.segment, stage.margin_days, stage.by_zone]
        case Summarise():
            told += [stage.reads, [one.name for one in stage.series]]
    return told


def _is_plain(value: Any) -> bool:
    match value:
        case None | bool() | int() | float() | str():
            return True
        case list() | tuple():
            return all(map(_is_plain, value))
        case dict():
            return all(map(_is_plain, (*value, *value.values())))
    return False


def _root(value: Any, modules: "_Modules") -> Place | None:
    """Where a plain function or class of a module is; None for all else."""
    # numba's dispatchers have the function that they were made of.
    bare = getattr(value, "py_func", value)
    if not isinstance(bare, FunctionType | type):
        return None
    home = sys.modules.get(bare.__module__ or "")
    if home is None:
        return None
    is_own = modules.named(home.__name__) is not None
    if is_own and vars(home).get(bare.__name__) is not value:
        return None
    return home.__name__, bare.__name__


def _reached(roots: Iterable[Place], modules: "_Modules") -> set[tuple[str, str]]:
    """The statements, each with its module's name, that some places come down to."""
    texts: set[tuple[str, str]] = set()
    seen: set[Place] = set()
    waiting = list(roots)
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        module, name = place
        found = modules.named(module)
        if found is None:
            texts.add((module, name))
            continue
        for statement in found.binding(name):
            texts.add((module, statement.text))
            if (target := statement.imports.get(name)) is not None:
                # A module that is imported counts by what is used of it.
                waiting += [place for place in [modules.resolved(target)] if place[1]]
            for chain in statement.names:
                waiting += modules.places(found, statement, chain)
    return texts


@dataclass(frozen=True)
class _Statement:
    """A statement of a module: its text, and the names that it binds or changes, and uses."""

    text: str
    binds: frozenset[str]
    names: frozenset[tuple[str, ...]]
    """With the attributes that follow: `a.b.c` is (a, b, c)."""
    imports: dict[str, Place]
    """What names stand for that it imports, wherever in it."""
    stars: tuple[str, ...]
    """Modules of which it imports all names."""


@dataclass(frozen=True)
class _Text:
    """A module as it is written."""

    name: str
    statements: tuple[_Statement, ...]

    def binding(self, name: str) -> list[_Statement]:
        """Return the statements that bind or change a name; all of them for none."""
        return [one for one in self.statements if not name or name in one.binds]


class _Modules:
    """Modules by name, of those whose text counts."""

    def __init__(self, package: str) -> None:
        self._package = package

    def named(self, name: str) -> _Text | None:
        """Return a module's text; None where it is installed, or has none."""
        spec = self._own(name)
        return None if spec is None else _text(name, spec)

    def remember(self) -> None:
        """Read what is imported now: files may be edited before they are asked for."""
        for name in list(sys.modules):
            if (spec := self._own(name)) is not None:
                with contextlib.suppress(ProductError):
                    _read(name, spec)

    def _own(self, name: str) -> ModuleSpec | None:
        package = name.split(".")[0]
        # Of the thousands that are imported most belong to some hundred packages.
        if package != self._package and (top := _spec(package)) and _is_installed(top.origin):
            return None
        spec = _spec(name)
        if spec is None or not str(spec.origin).endswith(".py"):
            return None
        return spec if package == self._package or not _is_installed(spec.origin) else None

    def places(self, text: _Text, statement: _Statement, chain: tuple[str, ...]) -> Iterator[Place]:
        """Yield all that a chain of names in a statement may stand for."""
        first, *rest = chain
        binding = text.binding(first)
        if binding:
            yield text.name, first
        targets = [one.imports[first] for one in (statement, *binding) if first in one.imports]
        if not binding and not targets:
            targets = [(module, first) for one in text.statements for module in one.stars]
        for target in targets:
            yield self.resolved(target, rest)

    def resolved(self, target: Place, attributes: Iterable[str] = ()) -> Place:
        """Return the place of attributes of what was imported, through packages to modules."""
        module, name = target
        for attribute in filter(None, (name, *attributes)):
            spec, below = _spec(module), f"{module}.{attribute}"
            is_namespace = spec is not None and spec.origin is None
            if not (is_namespace or self.named(module)) or _spec(below) is None:
                return module, attribute
            module = below
        return module, ""


@functools.cache
def _is_installed(origin: str | None) -> bool:
    """Whether a module's file is none of a user; namespaces have none, and may hold users'."""
    if origin is None or origin in ("built-in", "frozen"):
        return origin is not None
    return any(map(Path(origin).resolve().is_relative_to, OTHERS))


def _spec(name: str) -> ModuleSpec | None:
    module = sys.modules.get(name)
    return _found_spec(name) if module is None else getattr(module, "__spec__", None)


@functools.cache
def _found_spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


_sources: dict[str, tuple[ModuleSpec, bytes]] = {}
_texts: dict[str, tuple[ModuleSpec, _Text]] = {}
"""By module: one that is imported anew, or reloaded, has another spec."""


def _read(name: str, spec: ModuleSpec) -> bytes:
    if name not in _sources or _sources[name][0] is not spec:
        try:
            _sources[name] = spec, Path(str(spec.origin)).read_bytes()
        except OSError as error:
            raise ProductError(f"product: module {name} cannot be read: {error}") from error
    return _sources[name][1]


def _text(name: str, spec: ModuleSpec) -> _Text:
    if name not in _texts or _texts[name][0] is not spec:
        try:
            tree = ast.parse(_read(name, spec))
        except (SyntaxError, ValueError) as error:
            raise ProductError(
                f"product: the file of module {name} has changed since it was imported, and is no "
                f"Python any more: {error}"
            ) from error
        is_package = spec.submodule_search_locations is not None
        parent = name if is_package else name.rpartition(".")[0]
        _texts[name] = spec, _Text(name, tuple(_statement(node, parent) for node in tree.body))
    return _texts[name][1]


def _statement(node: ast.stmt, package: str) -> _Statement:
    """A statement, and what relative imports in it start from."""
    imports: dict[str, Place] = {}
    stars = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if ast.get_docstring(inner, clean=False) is not None:
                inner.body = inner.body[1:] or [ast.Pass()]
        elif isinstance(inner, ast.Import):
            for one in inner.names:
                top = one.name.split(".")[0]
                imports[one.asname or top] = (one.name if one.asname else top, "")
        elif isinstance(inner, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - inner.level + 1]
            parts = [*(start if inner.level else []), *filter(None, [inner.module])]
            for one in inner.names:
                if one.name == "*":
                    stars.append(".".join(parts))
                else:
                    imports[one.asname or one.name] = ".".join(parts), one.name
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    text = "" if is_text else ast.unparse(node)
    return _Statement(text, frozenset(_bound(node)), frozenset(_used(node)), imports, tuple(stars))


def _used(node: ast.AST) -> Iterator[tuple[str, ...]]:
    if isinstance(node, ast.expr) and (chain := _chain(node)):
        yield chain
        return
    for inner in ast.iter_child_nodes(node):
        yield from _used(inner)


def _chain(node: ast.expr) -> tuple[str, ...]:
    """The name and attributes that an expression is; nothing where it is none."""
    match node:
        case ast.Name():
            return (node.id,)
        case ast.Attribute():
            before = _chain(node.value)
            return (*before, node.attr) if before else ()
    return ()


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names of the module that a statement binds, or changes the value of."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
            for inner in ast.walk(node):
                if isinstance(inner, ast.Global):
                    yield from inner.names
            return
        case ast.Import() | ast.ImportFrom():
            yield from (one.asname or one.name.split(".")[0] for one in node.names)
        case ast.ExceptHandler() if node.name:
            yield node.name
        case ast.Name(ctx=ast.Store() | ast.Del()):
            yield node.id
        case (
            ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del())
        ):
            yield from (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
        case ast.Expr():
            # What is called may change any of them.
            yield from (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
    for inner in ast.iter_child_nodes(node):
        yield from _bound(inner)
