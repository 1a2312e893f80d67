"""Arguments of ``jax.lax.conv_general_dilated``, good and bad, and arrays that go with them."""

import jax.numpy as jnp
import numpy as np
from jax import lax

NHWC = ("NHWC", "HWIO", "NHWC")


def case(lhs, rhs, groups, strides, padding, numbers=NHWC, **others):
    """Shapes, and the arguments that go with them."""
    arguments = {
        "window_strides": strides,
        "padding": padding,
        "dimension_numbers": numbers,
        "feature_group_count": groups,
    }
    return lhs, rhs, arguments | others


CASES = {
    "NHWC": case((2, 7, 6, 8), (3, 3, 1, 8), 8, (1, 1), "SAME"),
    "NCHW, by default": case((2, 8, 7, 6), (8, 2, 3, 3), 4, (1, 1), "SAME", None),
    "by names": case((2, 8, 7, 6), (8, 2, 3, 3), 4, (2, 1), "VALID", ("NCHW", "OIHW", "NHWC")),
    "by positions": case(
        (7, 2, 8, 6),
        (2, 8, 3, 2),
        4,
        (1, 2),
        "SAME",
        lax.ConvDimensionNumbers((1, 2, 3, 0), (1, 0, 3, 2), (3, 1, 0, 2)),
    ),
    "CHWN": case((8, 7, 6, 2), (2, 3, 3, 12), 4, (1, 1), "SAME", ("CHWN", "IHWO", "CNWH")),
    "width first": case((2, 7, 6, 8), (3, 2, 2, 8), 4, (2, 1), "SAME", ("NWHC", "HWIO", "NHWC")),
    "1-D": case((2, 11, 8), (3, 1, 16), 8, (2,), "SAME", ("NWC", "WIO", "NWC")),
    "1-D, channels first": case((2, 6, 11), (6, 2, 4), 3, (3,), ((2, 5),), ("NCW", "OIW", "NCW")),
    "3-D": case(
        (2, 4, 5, 6, 4), (2, 3, 2, 1, 4), 4, (1, 2, 1), "SAME", ("NDHWC", "DHWIO", "NDHWC")
    ),
    "4-D": case((2, 6, 3, 4, 3, 2), (6, 3, 2, 2, 1, 2), 2, (1, 1, 2, 1), "SAME", None),
    "SAME, strided": case((2, 7, 8, 4), (3, 2, 2, 6), 2, (2, 3), "SAME"),
    "same": case((2, 7, 8, 4), (3, 2, 2, 6), 2, (2, 3), "same"),
    "SAME_LOWER": case((2, 7, 8, 4), (4, 2, 2, 6), 2, (2, 3), "SAME_LOWER"),
    "SAME, dilated": case((2, 7, 8, 4), (3, 2, 1, 4), 4, (1, 2), "SAME", rhs_dilation=(2, 3)),
    "VALID, dilated": case((2, 9, 8, 4), (3, 2, 1, 4), 4, (2, 1), "VALID", rhs_dilation=(2, 3)),
    "negative padding": case((2, 9, 8, 6), (3, 2, 2, 3), 3, (2, 1), ((-1, 2), (3, -2))),
    "array for padding": case((2, 5, 5, 4), (2, 2, 1, 4), 4, (1, 1), np.array([[1, 0], [0, 2]])),
    "arrays for numbers": case(
        (2, 9, 9, 4), (2, 2, 1, 4), 4, np.array([2, 1]), "SAME", rhs_dilation=np.array([1, 3])
    ),
    "lists for numbers": case(
        (2, 9, 9, 4), (2, 2, 1, 4), 4, [2, 1], [(1, 0), (0, 2)], rhs_dilation=[1, 3]
    ),
    "lhs_dilation of one": case((2, 5, 5, 4), (2, 2, 1, 4), 4, (1, 1), "SAME", lhs_dilation=(1, 1)),
    "filter larger than the image": case((2, 2, 9, 4), (3, 3, 1, 4), 4, (2, 2), "VALID"),
    "no image": case((0, 5, 5, 4), (3, 3, 1, 4), 4, (2, 2), "SAME"),
    "transposed": case(
        (2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), ((2, 1), (0, 1)), lhs_dilation=(2, 1)
    ),
    "groups of the batch": case((4, 5, 5, 3), (3, 3, 3, 8), 1, (1, 1), "SAME", batch_group_count=2),
    "precision": case((2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), "SAME", precision=["highest", "high"]),
    "one group": case((2, 5, 5, 4), (3, 3, 4, 6), 1, (1, 1), "SAME"),
    "one group, padded 1x1": case((2, 9, 5, 6), (12, 9, 1, 1), 1, (1, 1), ((0, 1), (0, 0)), None),
}
# Everything that is lowered as lax lowers it.
UNCHANGED = {
    "both images strided": case(
        (2, 5, 5, 4), (3, 3, 1, 4), 4, (2, 1), ((2, 1), (0, 1)), lhs_dilation=(2, 1)
    ),
    "no spatial axis": case((2, 4), (2, 6), 2, (), (), ("NC", "IO", "NC")),
    "empty filters": case((2, 5, 5, 4), (0, 3, 1, 4), 4, (1, 1), "VALID"),
}
# 1x1 filters of one group, which are matrix products.
POINTWISE = {
    "1x1": case((2, 5, 6, 8), (1, 1, 8, 12), 1, (1, 1), "SAME"),
    "1x1, NCHW": case((2, 9, 5, 6), (12, 9, 1, 1), 1, (1, 1), "VALID", None),
    "1x1, strided": case((2, 7, 8, 8), (1, 1, 8, 12), 1, (2, 3), "SAME"),
    "1x1, dilated, which is nothing": case(
        (2, 5, 6, 8), (1, 1, 8, 12), 1, (1, 1), "SAME", rhs_dilation=(2, 3)
    ),
    "1x1, 1-D": case((2, 11, 8), (1, 8, 16), 1, (1,), "SAME", ("NWC", "WIO", "NWC")),
    "1x1, one pixel": case((3, 1, 1, 16), (1, 1, 16, 9), 1, (1, 1), ((0, 0), (0, 0))),
}
BAD = {
    "channels that do not fit": case((2, 5, 5, 6), (3, 3, 1, 4), 4, (1, 1), "SAME"),
    "filters that do not fit": case((2, 5, 5, 4), (3, 3, 1, 6), 4, (1, 1), "SAME"),
    "no groups": case((2, 5, 5, 4), (3, 3, 1, 4), 0, (1, 1), "SAME"),
    "groups of both": case((4, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), "SAME", batch_group_count=2),
    "too few strides": case((2, 5, 5, 4), (3, 3, 1, 4), 4, (1,), "SAME"),
    "unknown padding": case((2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), "FULL"),
    "too little padding": case((2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), ((1, 1),)),
    "unknown axes": case((2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), "SAME", ("NHWX", "HWIO", "NHWC")),
    "dilation of zero": case((2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), "SAME", rhs_dilation=(0, 1)),
    "ranks that differ": case((2, 5, 5, 4), (3, 1, 4), 4, (1, 1), "SAME"),
    "narrow result": case(
        (2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), "SAME", preferred_element_type=jnp.bfloat16
    ),
    "unknown precision": case((2, 5, 5, 4), (3, 3, 1, 4), 4, (1, 1), "SAME", precision="exact"),
}


def arrays(lhs, rhs, dtype=jnp.float32):
    random = np.random.default_rng(0)
    return tuple(
        jnp.asarray(random.integers(-9, 9, shape) / 4, jnp.float32).astype(dtype)
        for shape in (lhs, rhs)
    )
