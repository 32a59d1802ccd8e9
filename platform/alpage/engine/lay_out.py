"""The arrays that a plan needs, in the cube: made, lengthened, or there already."""

from typing import Any

import icechunk
import zarr

from alpage.cube.axes import axes_to_json
from alpage.cube.layout import create, grow, replace_zones
from alpage.engine.identity import IDENTITY_KEYS
from alpage.engine.plan import Plan
from alpage.errors import CubeBusy


def lay_out(plan: Plan, session: icechunk.Session) -> None:
    """Write the groups and arrays that the plan's cube lacks into a session.

    Raises CubeBusy where another part of the run has laid out another cube meanwhile.
    """
    found, before = _about(session), plan.before
    wanted = plan.identity | {"axes": axes_to_json(plan.layout.axes)}
    keys = (*IDENTITY_KEYS, "zones", "axes")
    if found is not None and all(found.get(key) == wanted[key] for key in keys):
        return
    if (found and found["axes"]) != (before and axes_to_json(before.layout.axes)):
        raise CubeBusy(
            f"cube: another part of this run laid out {plan.study.cube} meanwhile, from other "
            "scenes than this one found; run this part again"
        )
    if before is None:
        create(session, plan.layout, plan.identity)
        return
    if any(plan.layout.axes[calendar] != axis for calendar, axis in before.layout.axes.items()):
        grow(session, before.layout, plan.layout, plan.identity)
    if before.zones_changed:
        replace_zones(session, plan.layout, plan.identity, plan.work.ledger.fingerprints)


def _about(session: icechunk.Session) -> dict[str, Any] | None:
    """What the cube says of itself, None where nothing is laid out."""
    try:
        return dict(zarr.open_group(session.store, mode="r").attrs["alpage"])
    except (FileNotFoundError, KeyError):
        return None
