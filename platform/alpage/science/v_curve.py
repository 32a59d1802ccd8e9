"""How stiff a smooth curve should be, judged by the series itself: the V-curve.

Source: Frasso and Eilers 2015, 10.1177/1471082X14549288.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alpage.science.smoothing import whittaker, whittaker_envelope


def v_curve(
    y: ArrayLike, weights: ArrayLike, log10_grid: ArrayLike, envelope: float | None = None
) -> tuple[float, NDArray[np.float64]]:
    """Return the stiffness at the least slope of the V-curve, and the curve of that stiffness.

    `log10_grid` holds at least two equally spaced values of log10(lam); the answer lies
    midway between two of them. On short series the V-curve smooths too little: bound the
    grid. `envelope` as `p` of `whittaker_envelope`. Raises ValueError as `whittaker` does,
    and where the series is fitted exactly, which leaves no V.

    >>> y = np.sin(np.arange(60) / 9) + np.tile([0.1, -0.1, 0.05], 20)
    >>> lam, curve = v_curve(y, np.ones(60), np.arange(-2, 4.1, 0.2))
    >>> round(lam, 3), curve.shape
    (50.119, (60,))
    """
    grid = np.asarray(log10_grid, np.float64)
    if grid.ndim != 1 or grid.size < 2 or not np.allclose(np.diff(grid), grid[1] - grid[0]):
        raise ValueError(f"expected two or more equally spaced log10(lam), got {grid}")

    def smooth(lam: float) -> NDArray[np.float64]:
        if envelope is None:
            return whittaker(y, weights, lam)
        return whittaker_envelope(y, weights, lam, envelope)

    curves = [smooth(float(10**position)) for position in grid]
    weight = np.asarray(weights, np.float64)
    values = np.where(weight > 0, np.asarray(y, np.float64), 0.0)
    misfit = np.array([np.sum((weight * (values - curve)) ** 2) for curve in curves])
    roughness = np.array([np.sum(np.diff(curve, 2) ** 2) for curve in curves])
    if not (np.all(misfit > 0) and np.all(roughness > 0)):
        raise ValueError("the series is a straight line through all samples: no V-curve exists")
    slope = np.hypot(np.diff(np.log(misfit)), np.diff(np.log(roughness)))
    least = int(np.argmin(slope))
    lam = float(10 ** ((grid[least] + grid[least + 1]) / 2))
    return lam, smooth(lam)
