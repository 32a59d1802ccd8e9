"""How the chart's Dask operator runs: a module of kopf beside dask-kubernetes' own controller.

kopf run --module=dask_kubernetes.operator.controller --module=alpage.kube.operator
"""

from typing import Any

import kopf


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Look at nothing beyond the operator's namespace.

    Its account may not list namespaces or CRDs; kopf would ask for both nine times, and serve no
    cluster for the 54 seconds that takes.
    """
    settings.scanning.disabled = True
