"""How the chart's Dask operator runs: a module of kopf beside dask-kubernetes' own controller.

kopf run --module=dask_kubernetes.operator.controller --module=alpage.kube.operator
"""

import time
from typing import Any

import aiohttp
import kopf
import kr8s
from kr8s.asyncio.objects import new_class

from alpage.kube.resource import CLUSTERS, GROUP, IDLE_SECONDS, VERSION

DaskCluster = new_class("DaskCluster", f"{GROUP}/{VERSION}", asyncio=True)
POLL_S = 5.0
ANSWER_S = 30.0
LOOK_S = 20.0
SCHEDULER_S = 5.0


@kopf.on.startup()
async def configure(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Look at nothing beyond the operator's namespace, and wait for no answer for ever.

    Its account may not list namespaces or CRDs; kopf would ask for both nine times, and serve no
    cluster for the 54 seconds that takes. dask-kubernetes asks by kr8s, which has no time limit:
    an answer that is lost would keep its cluster from going until the operator is started anew.
    """
    settings.scanning.disabled = True
    # How often it is asked whether a timer that holds up a deletion has ended.
    settings.background.cancellation_polling = POLL_S
    # All that ask share this client for as long as somebody holds it.
    memo.kubernetes = await kr8s.asyncio.api()
    memo.kubernetes.timeout = ANSWER_S


@kopf.timer(
    f"{CLUSTERS}.{GROUP}",
    initial_delay=LOOK_S,
    interval=LOOK_S,
    annotations={IDLE_SECONDS: kopf.PRESENT},
)
async def end_forgotten(
    name: str | None,
    namespace: str | None,
    annotations: kopf.Annotations,
    logger: kopf.Logger,
    **_: Any,
) -> None:
    """Delete a cluster that has had nothing to do for as long as its annotation says.

    Not by the `idleTimeout` of dask-kubernetes: a cluster does not go while its timer asks, which
    takes minutes where a scheduler is not ready, and where its name is not known yet, all of the
    operator waits.
    """
    url = f"http://{name}-scheduler.{namespace}.svc:8787/api/v1/check_idle"
    limit = aiohttp.ClientTimeout(total=SCHEDULER_S)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as answer:
            answer.raise_for_status()
            since = float((await answer.json())["idle_since"] or 0)
    except (aiohttp.ClientError, TimeoutError) as error:
        logger.debug(f"its scheduler does not say since when it is idle: {error!r}")
        return
    if since and time.time() - since > float(annotations[IDLE_SECONDS]):
        logger.warning(f"idle for more than {annotations[IDLE_SECONDS]} s: deleted")
        cluster = await DaskCluster.get(name, namespace=namespace)
        await cluster.delete()
