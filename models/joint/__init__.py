"""The joint model of all modalities: a basis for each, and one Gaussian of their scores, learnt from sums.

- `blocks`: which numbers of a score vector belong to which modality or covariate; a missing block is NaN.
- `sums`: `sums_of`, `merge`, `subtract`: what is kept of patients, for each class and pattern of blocks.
- `gaussian`: `fit_estimate` (EM), `condition`, `log_density`.
- `posterior`: `fit` (with draws of the parameters), `draw` (of missing scores, and of patients that never were).
- `basis`: `fit_basis`: between feature maps and scores.
- `embedding`: a patient as a few shared directions, with their uncertainty.
- `decoder`: from scores of a feature map to the image that may belong to it.
- `model`: all of it for feature maps by modality; `state`: as arrays for a file.
"""
