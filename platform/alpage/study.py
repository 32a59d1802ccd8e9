"""What a user asks for: one model, read from YAML."""

import datetime as dt
import difflib
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import shapely
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from alpage.errors import ProductError, StorageError, StudyError
from alpage.objectstore import on_s3, read_object
from alpage.product import Product
from alpage.redaction import CREDENTIALS_ELSEWHERE, names_user
from alpage.surface import valid_surface
from alpage.yamlfile import read_yaml

ADDRESSES = {"address": ("tcp", "tls"), "gateway": ("https", "http")}
BUILT_IN = ("vegetation", "snow", "lakes")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _without_user[T](value: T) -> T:
    if isinstance(value, str) and names_user(value):
        raise ValueError(CREDENTIALS_ELSEWHERE)
    return value


class Period(_Strict):
    """Days from the first to the last, both included."""

    first: dt.date
    last: dt.date

    def __str__(self) -> str:
        return f"{self.first}/{self.last}"


def _period(value: Any) -> Any:
    if isinstance(value, Period):
        return value
    parts = value.split("/") if isinstance(value, str) else []
    if len(parts) != 2:
        raise ValueError("expected two dates such as 2018-01-01/2018-12-31")
    try:
        first, last = (dt.date.fromisoformat(part.strip()) for part in parts)
    except ValueError as error:
        raise ValueError(f"expected dates such as 2018-01-01/2018-12-31: {error}") from error
    if first > last:
        raise ValueError(f"expected the first day before the last, {last} comes before {first}")
    return Period(first=first, last=last)


PeriodText = Annotated[
    Period,
    BeforeValidator(_period),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\d{4}-\d{2}-\d{2}/\d{4}-\d{2}-\d{2}$",
            "examples": ["2018-01-01/2018-12-31"],
        }
    ),
]


class Area(_Strict):
    """Where: a box in EPSG:4326 (west, south, east, north), GeoJSON, or where it lies."""

    bbox: tuple[float, float, float, float] | None = None
    file: str | None = None
    geojson: dict[str, Any] | None = None

    _no_user = field_validator("file")(_without_user)

    @model_validator(mode="after")
    def _one_of_three(self) -> "Area":
        if [self.bbox, self.file, self.geojson].count(None) != 2:
            raise ValueError("expected one of bbox, file and geojson")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not (-180 <= west <= 180 and -180 <= east <= 180):
                raise ValueError(f"longitudes must lie within -180..180, got {west} and {east}")
            if not (-90 <= south < north <= 90):
                raise ValueError(
                    f"latitudes must rise from south to north in -90..90, got {south} to {north}"
                )
            if west >= east:
                raise ValueError(
                    f"west ({west}) must lie west of east ({east}); an area across the "
                    "antimeridian is two studies, one on each side"
                )
        return self


def what_crs_lacks(name: str) -> str:
    """Return what is expected of a cube's CRS where one is not that; nothing where it is.

    >>> what_crs_lacks("EPSG:4326")
    'expected a projected CRS in metres, such as EPSG:32631'
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(name)
    except CRSError:
        return "expected a CRS such as EPSG:32631"
    if not crs.is_projected or {axis.unit_name for axis in crs.axis_info} != {"metre"}:
        return "expected a projected CRS in metres, such as EPSG:32631"
    method = crs.coordinate_operation.method_name if crs.coordinate_operation else ""
    if "Mercator" in method and not re.search("Transverse|Oblique", method):
        return (
            "expected a CRS that nearly keeps areas, such as EPSG:32631: "
            f"in {crs.name} they are told too large away from the equator"
        )
    return ""


class GridChoice(_Strict):
    """The cube's CRS and resolution (in units of the CRS); by default the scenes' own.

    Without `tile_px` tiles hold whole internal tiles of the scenes' files, so that none is read
    twice: up to 1024 pixels where the area fills them, workers have memory for them and each gets
    two, else from 512 on.
    """

    crs: str | None = None
    resolution: float | None = Field(None, gt=0)
    tile_px: int | None = Field(None, ge=16, le=4096)
    window_days: int = Field(192, ge=32, le=3840, multiple_of=32)

    @field_validator("crs")
    @classmethod
    def _known_crs(cls, value: str | None) -> str | None:
        if value is not None and (wanted := what_crs_lacks(value)):
            raise ValueError(wanted)
        return value


class ClusterChoice(_Strict):
    """The cluster of the run: of this machine, of Kubernetes, of a gateway, or at an address."""

    kind: Literal["local", "kubernetes", "gateway", "address"] = "local"
    workers: int = Field(2, ge=1, le=1024, description="Most workers at a time.")
    min_workers: int | None = Field(
        None,
        ge=0,
        description="For kind kubernetes: workers that are kept while nothing is left for them to "
        "do, until the run ends; by default none.",
    )
    memory_gib: float = Field(2.0, gt=0.25, description="Memory of one worker.")
    cores: float | None = Field(
        None, gt=0, description="For kind kubernetes: cores of one worker, by default 1."
    )
    image: str | None = Field(
        None, description="For kind kubernetes: image of the workers, by default the installed one."
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="For kind kubernetes: labels of the workers' nodes."
    )
    spot: bool | None = Field(
        None,
        description="For kind kubernetes: whether workers run on nodes that may go away at any "
        "moment (true) or never (false); by default on both.",
    )
    address: str | None = Field(
        None,
        description="For kind address: tcp://host:port; for kind gateway: https://host/path.",
    )

    @model_validator(mode="after")
    def _what_goes_together(self) -> "ClusterChoice":
        if (self.kind in ADDRESSES) != (self.address is not None):
            raise ValueError("address goes with kind: address or gateway, and only with them")
        if self.address is not None:
            scheme, _, rest = self.address.partition("://")
            if scheme not in ADDRESSES[self.kind] or not rest:
                expected = " or ".join(f"{one}://..." for one in ADDRESSES[self.kind])
                raise ValueError(f"address of kind: {self.kind}: expected {expected}")
            if "@" in rest:
                raise ValueError("address: who may come in is no part of it; see dask's settings")
        for name in ("min_workers", "cores", "image", "node_selector", "spot"):
            if getattr(self, name) not in (None, {}) and self.kind != "kubernetes":
                raise ValueError(f"{name} goes with kind: kubernetes, and only with it")
        if (self.min_workers or 0) > self.workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) must not be more than workers ({self.workers})"
            )
        return self


class Limits(_Strict):
    """Hard limits: a run that would pass them does not start, one that does pass them stops."""

    read_gib: float | None = Field(None, gt=0)
    blocks: int | None = Field(None, gt=0)
    cost_eur: float | None = Field(None, gt=0)
    hours: float | None = Field(None, gt=0)


class Study(_Strict):
    """One request: which product, where, when, from which archive into which cube."""

    product: str = Field(description="vegetation, snow, lakes, or my_module:product.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="The product's own.")
    area: Area
    period: PeriodText
    archive: str = Field(description="STAC collection.json, STAC API URL, or scenes.parquet.")
    collection: str | None = Field(None, description="Collection of a STAC API.")
    cube: str = Field(description="Folder or s3:// URL of the cube.")
    release: str | None = Field(None, description="Where releases go; by default beside the cube.")
    grid: GridChoice = GridChoice()
    zones: str | dict[str, Any] | None = Field(
        None,
        description="Areas for series, EPSG:4326: file or s3:// URL of GeoJSON, or GeoJSON itself.",
    )
    dem: str | None = Field(None, description="Elevation raster, metres.")
    on_bad_scene: Literal["quarantine", "stop"] = "quarantine"
    cluster: ClusterChoice = ClusterChoice()
    limits: Limits = Limits()

    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _no_user = field_validator("archive", "cube", "release", "zones", "dem")(_without_user)

    @field_validator("product")
    @classmethod
    def _known_form(cls, value: str) -> str:
        if value not in BUILT_IN and value.count(":") != 1:
            raise ValueError(f"expected one of {', '.join(BUILT_IN)}, or my_module:product")
        return value

    @field_validator("cube", "archive")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected a path or URL")
        return value

    @field_validator("release")
    @classmethod
    def _apart_from_cube(cls, value: str | None, info: ValidationInfo) -> str | None:
        cube = info.data.get("cube")
        if value and cube:
            folder = (info.context or {}).get("folder") or Path.cwd()
            steps = [_steps(_locate(place, folder)) for place in (cube, value)]
            shared = min(map(len, steps))
            if steps[0][:shared] == steps[1][:shared]:
                raise ValueError(
                    f"expected a place apart from the cube {cube}, neither within it nor around it"
                )
        return value

    @property
    def folder(self) -> Path:
        """Where the study's relative paths start."""
        return self._folder

    def locate(self, path: str) -> str:
        """Return a path or URL of the study; relative ones are taken from the study's folder."""
        return _locate(path, self._folder)

    @property
    def releases(self) -> str:
        """Path or URL of the folder of releases: by default beside the cube."""
        if self.release:
            return self.locate(self.release)
        return f"{self.locate(self.cube).rstrip('/')}.release"

    def resolved(self) -> "Study":
        """Return the study with every path absolute, to be read from anywhere."""
        moved: dict[str, Any] = {
            key: self.locate(value)
            for key in ("archive", "cube", "release", "zones", "dem")
            if isinstance(value := getattr(self, key), str)
        }
        if self.area.file is not None:
            moved["area"] = Area(file=self.locate(self.area.file))
        study = self.model_copy(update=moved)
        study._folder = self._folder
        return study

    @property
    def product_place(self) -> tuple[str, str]:
        """The module of the study's product, and its name there."""
        if self.product in BUILT_IN:
            return f"alpage.products.{self.product}", self.product
        module, name = self.product.split(":")
        return module, name

    def load_product(self) -> Product:
        """Return the product that the study names.

        Raises StudyError where there is none of that name.
        """
        module_name, attribute = self.product_place
        if self.product not in BUILT_IN and str(self._folder) not in sys.path:
            sys.path.insert(0, str(self._folder))
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            raise StudyError(
                f"product: expected a module beside the study or on the path, "
                f"got {self.product!r}: {error}"
            ) from error
        except AttributeError as error:
            raise StudyError(
                f"product: module {module_name} has no object named {attribute!r}"
            ) from error
        except ProductError as error:
            raise StudyError(f"product: {self.product} is not well formed: {error}") from error
        except Exception as error:
            raise StudyError(
                f"product: expected to import {module_name}, got {type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no reason'}"
            ) from error
        if not isinstance(found, Product):
            raise StudyError(
                f"product: expected a Product at {self.product}, got {type(found).__name__}"
            )
        return found

    def load_parameters(self, product: Product) -> BaseModel:
        """Return the study's parameters, checked by the product."""
        try:
            return product.parameters.model_validate(self.parameters)
        except ValidationError as error:
            names = ", ".join(product.parameters.model_fields) or "none"
            known = f"product {product.name} takes {names}"
            # Not chained: pydantic repeats what it was given, passwords of addresses and all.
            raise StudyError(_sentence(error, prefix="parameters.", known=known)) from None

    def geometry(self) -> BaseGeometry:
        """Return the area in EPSG:4326.

        Raises StudyError where the file holds no surface.
        """
        if self.area.bbox is not None:
            return box(*self.area.bbox)
        return shapely.union_all(
            [geometry for geometry, _ in self.read_features(*self._area_features())]
        )

    def zone_geometries(self) -> dict[str, BaseGeometry]:
        """Return the outlines of the zones by id, EPSG:4326; without a file, the whole area."""
        return {identifier: geometry for identifier, _, geometry in self.read_zones()}

    def read_zones(self) -> list[tuple[str, str, BaseGeometry]]:
        """Return id, name and outline (EPSG:4326) of each zone.

        Raises StudyError where ids repeat.
        """
        if self.zones is None:
            return [("area", "whole area", self.geometry())]
        zones = []
        for number, (geometry, properties) in enumerate(self.read_features("zones", self.zones)):
            told = {key: value for key, value in properties.items() if value is not None}
            identifier = str(told.get("id", number))
            zones.append((identifier, str(told.get("name", identifier)), geometry))
        if len({identifier for identifier, _, _ in zones}) != len(zones):
            where = self.zones if isinstance(self.zones, str) else "zones"
            raise StudyError(f"zones: expected every feature of {where} to have its own id")
        return zones

    def with_geojson_inside(self) -> "Study":
        """Return the study with the GeoJSON that its area and zones name, instead of the files.

        What lies on S3 stays where it is. Raises StudyError where a file is not GeoJSON.
        """
        moved: dict[str, Any] = {}
        if self.area.file is not None and not on_s3(self.area.file):
            moved["area"] = Area(geojson=self.read_geojson("area.file", self.area.file))
        if isinstance(self.zones, str) and not on_s3(self.zones):
            moved["zones"] = self.read_geojson("zones", self.zones)
        study = self.model_copy(update=moved)
        study._folder = self._folder
        return study

    def _area_features(self) -> tuple[str, str | dict[str, Any]]:
        if self.area.geojson is not None:
            return "area.geojson", self.area.geojson
        return "area.file", str(self.area.file)

    def read_geojson(self, key: str, path: str) -> dict[str, Any]:
        """Return what a GeoJSON file or object holds.

        Raises StudyError where there is none, StorageError where S3 does not hand it out.
        """
        where = self.locate(path)
        if "://" in where and not on_s3(where):
            raise StudyError(
                f"{key}: expected a file or an s3:// URL of GeoJSON, got {where.split('://')[0]}://"
            )
        try:
            content = json.loads(read_object(where) if on_s3(where) else Path(where).read_text())
        except StorageError as error:
            raise StorageError(f"{key}: {error}") from error
        except FileNotFoundError:
            raise StudyError(f"{key}: expected a GeoJSON file, there is none at {where}") from None
        except (OSError, ValueError) as error:
            raise StudyError(f"{key}: expected GeoJSON at {where}: {error}") from error
        return content if isinstance(content, dict) else {"features": []}

    def read_features(
        self, key: str, source: str | dict[str, Any]
    ) -> list[tuple[BaseGeometry, dict[str, Any]]]:
        """Return the polygons of GeoJSON, given itself or as a file, with their properties."""
        if isinstance(source, str):
            where, content = self.locate(source), self.read_geojson(key, source)
        else:
            where, content = "the study", source
        if (crs := _named_crs(content)) is not None and not _is_geographic(crs):
            raise StudyError(
                f"{key}: expected longitudes and latitudes (EPSG:4326), {where} says that its crs "
                f"is {crs}; project it to EPSG:4326"
            )
        features = content.get("features", [content])
        surfaces = []
        for number, feature in enumerate(features):
            geometry = feature.get("geometry", feature) if isinstance(feature, dict) else None
            parts = ("coordinates", "geometries")
            if not isinstance(geometry, dict) or not any(map(geometry.get, parts)):
                raise StudyError(f"{key}: feature {number} of {where} has no geometry")
            try:
                surface = valid_surface(shape(geometry))
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise StudyError(
                    f"{key}: feature {number} of {where} is expected to be GeoJSON, {error}"
                ) from error
            if surface.is_empty:
                raise StudyError(
                    f"{key}: feature {number} of {where} is expected to be a polygon, "
                    f"got {geometry.get('type')} without a surface"
                )
            x0, y0, x1, y1 = surface.bounds
            if x0 < -180 or x1 > 180 or y0 < -90 or y1 > 90:
                raise StudyError(
                    f"{key}: expected longitudes and latitudes (EPSG:4326) in {where}, "
                    f"got coordinates such as {x0:.0f}, {y0:.0f}"
                )
            properties = dict(feature.get("properties") or {})
            if feature.get("id") is not None:
                properties.setdefault("id", feature["id"])
            surfaces.append((surface, properties))
        if not surfaces:
            raise StudyError(f"{key}: expected at least one polygon, {where} has none")
        return surfaces


def _locate(path: str, folder: Path) -> str:
    if "://" in path:
        return path
    return str((folder / Path(path).expanduser()).resolve())


def _steps(place: str) -> tuple[str, ...]:
    """From the root on, what leads to a path or URL, alike for all of its spellings."""
    scheme, _, rest = place.rpartition("://")
    if scheme in ("", "file"):
        return Path(rest).resolve().parts
    return scheme, *(step for step in rest.split("/") if step)


def _named_crs(geojson: dict[str, Any]) -> str | None:
    """The CRS that GeoJSON of before RFC 7946 names, be it by name or by code."""
    crs = geojson.get("crs")
    if isinstance(crs, str):
        return crs
    properties = crs.get("properties") if isinstance(crs, dict) else None
    if not isinstance(properties, dict):
        return None
    if "code" in properties:
        return f"EPSG:{properties['code']}"
    return str(properties["name"]) if "name" in properties else None


def _is_geographic(crs: str) -> bool:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(crs).is_geographic
    except CRSError:
        return False


def read_study(path: str | Path) -> Study:
    """Return the study of a YAML file; its relative paths start from the file's folder.

    Raises StudyError with one sentence that names the key.
    """
    path = Path(path)
    content = read_yaml(path)
    return make_study(content, folder=path.resolve().parent)


def make_study(content: Any, *, folder: Path | None = None) -> Study:
    """Return a checked study from a mapping.

    >>> make_study({"product": "moss"})
    Traceback (most recent call last):
    alpage.errors.StudyError: product: expected one of vegetation, snow, lakes, ... got 'moss'
    """
    if not isinstance(content, dict):
        raise StudyError(f"study: expected keys and values, got {type(content).__name__}")
    try:
        study = Study.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        raise StudyError(_sentence(error)) from None
    if folder is not None:
        study._folder = folder
    return study


def _sentence(
    error: ValidationError, prefix: str = "", known: str = "see `alpage schema` for those that are"
) -> str:
    errors = error.errors(include_url=False)
    # What is misspelt tells more than what is missing for it.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    key = prefix + ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        missing = [str(one["loc"][-1]) for one in errors if one["type"] == "missing"]
        meant = difflib.get_close_matches(str(first["loc"][-1]), missing)
        return f"{key}: this key is not known; {f'perhaps {meant[0]}' if meant else known}"
    if first["type"] == "missing":
        return f"{key}: expected a value, the study has none"
    came = first["input"]
    text = str(came) if isinstance(came, dt.date) else repr(came)
    return f"{key}: {message}, got {text if len(text) <= 80 else type(came).__name__}"
