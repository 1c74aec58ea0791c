"""skops runtime: scikit-learn estimators that skops has written.

A skops file is data: it names types, and only those that are allowed here or by skops itself are
instantiated. It is never opened in any other way, whatever it looks like.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import skops.io

from models.formats import zip_names
from models.manifest import Manifest, artefact_name
from models.runtimes.sklearn_joblib import SklearnModel, build_model
from models.store import Repository
from yard.errors import ConfigurationError

#: The name of the file in a version's folder.
ARTEFACT = artefact_name("skops")
#: Types that skops does not allow by itself, though fitted estimators of scikit-learn consist of
#: them; each holds numbers and calls nothing that a file can choose.
ALLOWED = (
    "numpy.dtype",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogLink",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.AbsoluteError",
    "sklearn._loss.loss.ExponentialLoss",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfGammaLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfPoissonLoss",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn._loss.loss.HuberLoss",
    "sklearn._loss.loss.PinballLoss",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.DotProduct",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.RationalQuadratic",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._dist_metrics.EuclideanDistance",
    "sklearn.metrics._dist_metrics.EuclideanDistance32",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._ball_tree.BallTree32",
    "sklearn.neighbors._ball_tree.BallTree64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neighbors._kd_tree.KDTree32",
    "sklearn.neighbors._kd_tree.KDTree64",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
#: Nodes of a file that name a callable; no fitted estimator needs them.
_CALLING = frozenset({"OperatorFuncNode", "MethodNode", "ConstructorFromReduceNode"})
#: Bytes that a schema may have.
_SCHEMA_BYTES = 2**28


def load(manifest: Manifest, repository: Repository) -> SklearnModel:
    """Returns a version, opened and warmed up with its example.

    Raises:
        ModelUnavailable: It was made by another release of scikit-learn, does not open, or does not
            answer its own example.
    """
    return build_model(
        manifest, repository.read(manifest.ref, ARTEFACT, expected=manifest), open_skops
    )


def open_skops(raw: bytes) -> Any:
    """Returns the object in a skops file.

    Raises:
        ConfigurationError: It is none, or holds a type that is not allowed.
        Exception: Any error of skops on a broken file.
    """
    if not raw.startswith(b"PK\x03\x04"):
        raise ConfigurationError("it is no skops file")
    zip_names(raw, "the skops file")
    calling = sorted(_CALLING & set(_loaders(_schema(raw))))
    if calling:
        raise ConfigurationError(f"the skops file names something to call ({', '.join(calling)})")
    foreign = sorted(set(skops.io.get_untrusted_types(data=raw)) - set(ALLOWED))
    if foreign:
        raise ConfigurationError(
            f"the skops file holds types that are not allowed: {', '.join(foreign[:10])}"
        )
    return skops.io.loads(raw, trusted=list(ALLOWED))


def _schema(raw: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        if archive.getinfo("schema.json").file_size > _SCHEMA_BYTES:
            raise ConfigurationError("the skops file has too long a schema")
        return json.loads(archive.read("schema.json"))


def _loaders(schema: Any) -> Iterator[str]:
    """Yields the loader of each part of the file."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield str(part.get("__loader__"))
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
