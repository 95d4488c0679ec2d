"""Masks that vanish in the sum: each pair of sites adds the same random numbers, one with plus, the other with minus.

Numbers are brought to fixed point and added modulo 2⁶⁴, so that a masked number is uniform whatever it hides, and masks
cancel without a rounding error. A site is hidden unless all others, or all but it, tell what they sent.

Source: Bonawitz et al. 2017, "Practical secure aggregation", without its recovery from sites that drop out.
"""

import numpy as np
from numpy.typing import NDArray

from models.joint.blocks import FloatArray

Ring = NDArray[np.uint64]
BITS = 36  # after the point: steps of 1.5e-11
LARGEST = 2.0 ** (62 - BITS)  # of a sum over all sites, 6.7e7
FEWEST_SITES = 3  # of two, each would read the other


class OutOfRangeError(ValueError):
    """A number is too large for fixed point."""


def to_ring(values: FloatArray, *, sites: int) -> Ring:
    """Return numbers in fixed point, modulo 2⁶⁴.

    Args:
        values: (n,), finite.
        sites: that are added; each number may be at most `LARGEST` over their count.

    Raises:
        OutOfRangeError: a number is larger, or not finite.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= LARGEST / sites:
        raise OutOfRangeError(
            f"a sum of {largest:.3g} is too large for masks, which hold at most {LARGEST / sites:.3g} from each of "
            f"{sites} sites; set contribute.clip"
        )
    return np.rint(values * 2.0**BITS).astype(np.int64).view(np.uint64)


def from_ring(ring: Ring) -> FloatArray:
    """Return the numbers of `to_ring`."""
    return ring.view(np.int64).astype(np.float64) / 2.0**BITS


def masked(ring: Ring, own: str, streams: dict[str, bytes]) -> Ring:
    """Add the masks of a site.

    Args:
        ring: of `to_ring`, (n,).
        own: name of this site.
        streams: name of each other site → 8·n random bytes that only the two know.

    Raises:
        ValueError: fewer than `FEWEST_SITES` sites, or a stream of another length.
    """
    if len(streams) + 1 < FEWEST_SITES or own in streams:
        raise ValueError(f"{len(streams) + 1} sites; masks hide a site among {FEWEST_SITES} or more")
    out = ring.copy()
    for other, stream in streams.items():
        mask = np.frombuffer(stream, dtype="<u8").astype(np.uint64)
        if mask.shape != ring.shape:
            raise ValueError(f"{mask.shape} numbers in the mask with {other}; expected {ring.shape}")
        out = out + mask if own < other else out - mask  # modulo 2**64
    return out
