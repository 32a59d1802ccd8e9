"""One vocabulary of quality bits for every sensor, and the tables that translate into it."""

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray


class Quality(IntFlag):
    """What the archive says of a pixel; several bits may be set, none means clear land."""

    FILL = 1
    CLOUD = 2
    CIRRUS = 4
    SHADOW = 8
    SNOW = 16
    WATER = 32
    SATURATED = 64
    DARK = 128


DEFAULT_MASK = Quality.FILL | Quality.CLOUD | Quality.CIRRUS | Quality.SHADOW | Quality.SATURATED
"""Pixels that vegetation and lakes do not use. Snow has rules of its own (`science.snow`)."""

_SCL = {
    0: Quality.FILL,
    1: Quality.SATURATED,
    2: Quality.DARK,
    3: Quality.SHADOW,
    4: Quality(0),
    5: Quality(0),
    6: Quality.WATER,
    7: Quality(0),
    8: Quality.CLOUD,
    9: Quality.CLOUD,
    10: Quality.CIRRUS,
    11: Quality.SNOW,
}

_QA_PIXEL_BITS = {
    0: Quality.FILL,
    1: Quality.CLOUD,  # dilated cloud
    2: Quality.CIRRUS,
    3: Quality.CLOUD,
    4: Quality.SHADOW,
    5: Quality.SNOW,
    7: Quality.WATER,
}


def scl_table() -> NDArray[np.uint8]:
    """Return the `Quality` bits of each Sentinel-2 scene class: uint8, shape (256,).

    Classes that sen2cor does not define are FILL. Source: ESA, Sentinel-2 L2A scene
    classification (SCL).

    >>> scl_table()[[0, 4, 9, 11, 42]]
    array([ 1,  0,  2, 16,  1], dtype=uint8)
    """
    table = np.full(256, int(Quality.FILL), np.uint8)
    for scene_class, quality in _SCL.items():
        table[scene_class] = int(quality)
    return table


def qa_pixel_table() -> NDArray[np.uint8]:
    """Return the `Quality` bits of each Landsat Collection 2 QA_PIXEL value: uint8, (65536,).

    0 is FILL too: a pixel that was looked at carries at least its clear bit or its
    confidences, so 0 is only seen outside the image. Saturation is not in QA_PIXEL but in
    QA_RADSAT. Source: USGS, Landsat Collection 2 Level-2 QA_PIXEL bit index.

    >>> qa_pixel_table()[[1, 21824, 22280]]  # fill, clear land, high confidence cloud
    array([1, 0, 2], dtype=uint8)
    """
    values = np.arange(65536, dtype=np.uint32)
    table = np.zeros(65536, np.uint8)
    for bit, quality in _QA_PIXEL_BITS.items():
        table |= np.where((values >> bit) & 1, int(quality), 0).astype(np.uint8)
    table[0] = int(Quality.FILL)
    return table
