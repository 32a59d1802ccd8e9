"""Keep a cube up to date on a schedule: the same steps as `build`, on what the archive has now.

Blocks whose scenes did not change are not computed again, so running it daily
costs a search where nothing is new.
"""

import sys
from typing import Any

from prefect import flow

from alpage.study import Study
from build import main, plan, release, run, search, watched


@flow(name="update", log_prints=False)
def update(study: Study) -> dict[str, Any]:
    """Search, plan, run and, where anything changed, release."""
    with watched():
        found = search(study)
        plan(study, found)
        report = run(study, found)
        published = release(study)
    return {"report": report.to_json(), "release": vars(published)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], update))
