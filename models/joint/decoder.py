"""From the feature map of a modality to its image: a linear guess with all that it leaves open.

The images of training scans have a basis of their own (principal components). Its scores and those of the feature maps
of the same scans have one Gaussian, with draws of its parameters. So a drawn feature map has a drawn image that
belongs to it, and what the feature map does not tell of the image stays in the spread.

Images are blurred mixtures of training images, as principal components are: no lesion that training does not show.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.joint.basis import Basis, fit_basis
from models.joint.blocks import Blocks, FloatArray
from models.joint.gaussian import JointGaussian
from models.joint.model import Features, JointConfig
from models.joint.posterior import draw, fit
from models.joint.sums import sums_of

FEATURES, IMAGE = "features", "image"  # blocks


@dataclass(frozen=True)
class DecodedImage:
    """An image that nobody took, as it may look.

    Attributes:
        mean: best guess of each voxel or pixel, (D,).
        sd: standard deviation of each over draws, with what lies outside of the basis in it, (D,).
        draws: some draws, (S, D).
    """

    mean: Features
    sd: Features
    draws: Features


@dataclass(frozen=True)
class Decoder:
    """The decoder of one modality.

    Attributes:
        basis: of the images, D voxels or pixels.
        gaussian: of the blocks `FEATURES` (scores of the feature map) and `IMAGE` (scores of the image).
    """

    basis: Basis
    gaussian: JointGaussian

    def scores(self, drawn: FloatArray, classes: NDArray[np.int64], random: np.random.Generator) -> FloatArray:
        """Draw the image scores that belong to drawn feature maps, parameters drawn too, (S, k).

        Args:
            drawn: scores of the feature maps, (S, j).
            classes: drawn with them, (S,).
            random: source of chance.
        """
        blocks = self.gaussian.blocks
        rows = blocks.stack({FEATURES: drawn})
        every = max(1, len(self.gaussian.draws))
        made, _ = draw(self.gaussian, rows, every, random, classes)
        which = np.arange(len(rows))
        return made[which % every, which][:, blocks.slice_of(IMAGE)]

    def image(self, scores: FloatArray) -> tuple[Features, Features]:
        """Return mean and standard deviation of each voxel over draws of image scores, (D,) each; S ≥ 2.

        The standard deviation has what lies outside of the basis in it.
        """
        covariance = np.atleast_2d(np.cov(scores, rowvar=False))
        sd = np.sqrt(self.basis.variance(covariance)).astype(np.float32)
        return self.basis.features(scores.mean(axis=0)[None])[0], sd

    def decode(
        self, drawn: FloatArray, classes: NDArray[np.int64], shown: int, random: np.random.Generator
    ) -> DecodedImage:
        """Return the image that belongs to the drawn feature maps of one patient.

        Args:
            drawn: scores of the feature maps, (S, j); S ≥ 2, better a hundred, or `sd` is rough.
            classes: drawn with them, (S,).
            shown: draws to return, those of the first feature maps; at most S.
            random: source of chance.
        """
        scores = self.scores(drawn, classes, random)
        made = self.basis.features(scores[:shown]) + self.basis.draw_residuals(min(shown, len(scores)), random)
        return DecodedImage(*self.image(scores), made)


def fit_decoder(
    scores: FloatArray, images: Features, labels: NDArray[np.int64], classes: int, config: JointConfig
) -> Decoder:
    """Fit the decoder of one modality to the scans of training patients.

    Args:
        scores: of their feature maps, as the joint model learnt from them, (n, j).
        images: of the same scans, (n, D), finite.
        labels: their classes, (n,), in [0, K).
        classes: K.
        config: settings of the joint model: components and draws at most, seed.

    Raises:
        NoVariationError: the images are all alike.
        TooFewPatientsError: a class has too few.
    """
    basis, made = fit_basis(images, most=config.components, seed=config.seed)
    blocks = Blocks((FEATURES, IMAGE), (scores.shape[1], basis.size))
    rows = blocks.stack({FEATURES: scores, IMAGE: made})
    return Decoder(basis, fit(sums_of(rows, labels, blocks, classes), draws=config.draws, seed=config.seed))
