import numpy as np
import pytest

from lpsphere.kernels import ChainLayer, ConnectionIndex, LayerChain

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def layer(features, neurons, kind=np.float32, relu=True, bias=True, pointers=np.int32, seed=0):
    draw = np.random.default_rng(seed)
    mask = draw.random((neurons, features)) < 0.3
    starts = np.concatenate([[0], mask.sum(1).cumsum()]).astype(pointers)
    index = ConnectionIndex(starts, mask.nonzero()[1].astype(np.int32), features)
    values = draw.standard_normal(index.connections).astype(kind)
    return ChainLayer(index, values, draw.standard_normal(neurons).astype(kind) if bias else None, relu)


def dense(layers, x):
    """What the layers make of x, shape (batch, features), in float64."""
    for one in layers:
        weights = np.zeros((one.index.out_features, one.index.in_features))
        rows = np.repeat(np.arange(len(weights)), np.diff(one.index.pointers))
        weights[rows, one.index.columns] = one.values
        x = x @ weights.T + (0 if one.bias is None else one.bias)
        x = np.maximum(x, 0) if one.relu else x
    return x


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("orders", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("batch", [0, 1, 5, 16, 31, 32, 33, 64, 100, 257])
def test_samples_may_lie_in_either_order(batch, orders, kind):
    for layers in (
        [layer(37, 23, kind)],
        [layer(37, 50, kind), layer(50, 3, kind, relu=False, bias=False, seed=1)],
        [layer(37, 50, kind), layer(50, 3, kind, seed=1), layer(3, 40, kind, relu=False, seed=2)],
    ):
        x = np.random.default_rng(3).standard_normal((batch, 37)).astype(kind)
        given = np.ascontiguousarray(x.T) if orders[0] else x
        neurons = layers[-1].index.out_features
        y = np.full((neurons, batch) if orders[1] else (batch, neurons), np.nan, kind)
        around = np.full(y.size + 32, 7, kind)  # what lies beside y must stay
        place = around[16:-16]
        assert LayerChain(layers).run(given.ctypes.data, orders[0], place.ctypes.data, orders[1], batch)
        found = place.reshape(y.shape).T if orders[1] else place.reshape(y.shape)
        np.testing.assert_allclose(found, dense(layers, x.astype(np.float64)), rtol=0, atol=40 * TOLERANCE[kind])
        assert (around[:16] == 7).all()
        assert (around[-16:] == 7).all()


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([layer(5, 4), layer(3, 2)], ValueError, "takes 3 features, and there are 4"),
        ([layer(5, 4), layer(4, 2, np.float64)], TypeError, "all arrays of one type; got float64 with float32"),
        ([layer(5, 4, pointers=np.int64)], TypeError, "pointers must be int32, got int64"),
        ([ChainLayer(layer(5, 4).index, np.ones(3, np.float32), None, True)], ValueError, "values must be .* shape"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        LayerChain(layers)
