import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lpsphere.kernels import ConnectionIndex


def index(pointers, columns, in_features=4, kinds=(np.int32, np.int32)):
    return ConnectionIndex(np.array(pointers, kinds[0]), np.array(columns, kinds[1]), in_features)


@given(mask=st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays.arrays(bool, shape)))
def test_the_transposed_index_has_the_same_connections_and_says_where_they_are(mask):
    rows, columns = mask.nonzero()
    connections = index([0, *mask.sum(1).cumsum()], columns, mask.shape[1])
    transposed, order = connections.transposed
    by_feature = mask.T.nonzero()
    assert (transposed.out_features, transposed.in_features) == mask.T.shape
    assert transposed.connections == connections.connections == mask.sum()
    np.testing.assert_array_equal(transposed.pointers, [0, *mask.sum(0).cumsum()])
    np.testing.assert_array_equal(transposed.columns, by_feature[1])
    np.testing.assert_array_equal((columns[order], rows[order]), by_feature)
    assert connections.transposed[0] is transposed


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=20), pieces=st.integers(1, 9))
def test_pieces_cover_every_neuron_once_and_share_the_connections(counts, pieces):
    columns = [k for count in counts for k in range(count)]
    connections = index([0, *np.cumsum(counts)], columns, 6)
    cuts = connections.pieces(pieces)
    assert cuts.shape == (pieces + 1,)
    assert (cuts[0], cuts[-1]) == (0, len(counts))
    assert (np.diff(cuts) >= 0).all()
    shares = np.diff(connections.pointers[cuts])
    assert shares.sum() == connections.connections
    assert shares.max() <= connections.connections / pieces + 2 * max(counts)


def test_columns_may_fall_where_a_neuron_begins():
    assert index([0, 0, 2, 2, 3, 3], [1, 3, 0]).connections == 3
    assert index([0, 0, 0], []).connections == 0


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: index([0, 2], [1, 1]), ValueError, "without repetition: connections 0 and 1 .* features 1 and 1"),
        (lambda: index([0, 1, 3], [3, 2, 1]), ValueError, "connections 1 and 2"),
        (lambda: index([0, 2], [1, 4]), ValueError, "columns must be from 0 to 3.*from 1 to 4"),
        (lambda: index([0, 2], [-1, 2]), ValueError, "columns must be from 0 to 3.*from -1 to 2"),
        (lambda: index([0, 1], [1, 2]), ValueError, "pointers must rise from 0 to the number of connections, 2"),
        (lambda: index([1, 2], [1, 2]), ValueError, "pointers must rise"),
        (lambda: index([0, 2, 1, 2], [1, 2]), ValueError, "never fall"),
        (lambda: index([], []), ValueError, "they go nowhere"),
        (lambda: index([0, 1], [0], 0), ValueError, "in_features must be from 1"),
        (lambda: index([0, 1], [0], kinds=(np.int32, np.int64)), TypeError, "columns must be .* int32, got int64"),
        (lambda: index([0, 1], [0], kinds=(float, np.int32)), TypeError, "pointers must be .* int64, got float64"),
        (lambda: ConnectionIndex([0], [], 1), TypeError, "pointers must be a NumPy array .* got list"),
        (lambda: index([[0, 1]], [0]), ValueError, "one-dimensional and contiguous"),
        (
            lambda: ConnectionIndex(np.array([0, 2], np.int32), np.arange(4, dtype=np.int32)[::2], 4),
            ValueError,
            "columns must be one-dimensional and contiguous",
        ),
    ],
)
def test_what_is_no_structure_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
