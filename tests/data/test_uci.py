import numpy as np
import pytest
import torch

from lpsphere.data import load

PARTS = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def counts(labels):
    return labels.bincount().tolist()


def letters(path):
    return np.array([line.split(",") for line in path.read_text().split()])


def indices(cells):
    """Nominal columns as scikit-learn gives them, the categories in an order of their own; "?" is missing."""
    categories = {f"V{i + 1}": sorted(set(column) - {"?"}, reverse=True) for i, column in enumerate(cells.T)}
    columns = [
        [np.nan if cell == "?" else categories[f"V{i + 1}"].index(cell) for cell in column]
        for i, column in enumerate(cells.T)
    ]
    return np.array(columns).T, {name: [str(value) for value in values] for name, values in categories.items()}


def the_same(first, second):
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in PARTS)


@pytest.fixture
def dna(shared):
    return load(shared("dna"))


@pytest.fixture
def mushroom(shared):
    return load(shared("mushroom"))


@pytest.fixture
def climate(shared):
    return load(shared("climate"))


def test_dna_has_the_split_of_statlog(dna):
    assert (dna.name, dna.task, dna.classes) == ("dna", "classification", ("EI", "IE", "N"))
    assert (dna.x_train.shape, dna.x_test.shape) == ((2000, 180), (1186, 180))
    assert (counts(dna.y_train), counts(dna.y_test)) == ([464, 485, 1051], [303, 280, 603])
    assert (dna.x_train.dtype, dna.y_train.dtype) == (torch.float32, torch.int64)


def test_dna_is_three_bits_for_each_base(dna):
    both = torch.cat([dna.x_train, dna.x_test])
    assert both.unique().tolist() == [0, 1]
    assert dna.x_train.sum(dim=1).mean().item() == pytest.approx(45.6, abs=0.05)
    assert both.reshape(-1, 60, 3).sum(dim=2).max() == 1  # T is 000
    assert dna.features[:4] == ("-30=A", "-30=C", "-30=G", "-29=A")
    assert dna.features[-4:] == ("+29=G", "+30=A", "+30=C", "+30=G")


def test_dna_at_its_junctions_reads_gt_and_ag(dna):
    at = {name: dna.x_train[:, index] for index, name in enumerate(dna.features)}
    donor = dna.y_train == 0  # an exon ends before position +1, where the intron starts with GT
    acceptor = dna.y_train == 1  # an intron ends with AG at positions -2 and -1
    assert at["+1=G"][donor].mean() > 0.95
    assert sum(at[f"+2={base}"][donor].mean() for base in "ACG") < 0.05
    assert at["-2=A"][acceptor].mean() > 0.95
    assert at["-1=G"][acceptor].mean() > 0.95


def test_a_centroid_of_dna_reaches_its_published_accuracy(dna):
    centroids = torch.stack([dna.x_train[dna.y_train == label].mean(dim=0) for label in range(3)])
    nearest = torch.cdist(dna.x_test, centroids).argmin(dim=1)
    assert (nearest == dna.y_test).float().mean().item() == pytest.approx(0.8853, abs=5e-5)


def test_neither_fraction_nor_seed_touches_the_split_of_dna(dna, shared):
    assert the_same(dna, load(shared("dna"), test_fraction=0.5, split_seed=7))


def test_mushroom_is_one_hot_with_missing_as_a_value(mushroom, shared):
    assert (mushroom.name, mushroom.classes) == ("mushroom", ("edible", "poisonous"))
    assert (mushroom.x_train.shape, mushroom.x_test.shape) == ((6093, 117), (2031, 117))
    both = torch.cat([mushroom.x_train, mushroom.x_test])
    assert both.unique().tolist() == [0, 1]
    assert (both.sum(dim=1) == 22).all()
    names = {feature.partition("=")[0]: None for feature in mushroom.features}
    assert len(names) == 22
    for position, name in enumerate(names, start=1):
        columns = [index for index, feature in enumerate(mushroom.features) if feature.startswith(f"{name}=")]
        cells = letters(shared("mushroom") / "agaricus-lepiota.data")[:, position].tolist()
        occurring = {f"{name}={letter}": float(cells.count(letter)) for letter in set(cells)}
        assert {mushroom.features[index]: both[:, index].sum().item() for index in columns} == occurring
    assert both[:, mushroom.features.index("stalk-root=?")].sum() == 2480


def test_mushroom_has_its_poisonous_odours(mushroom):
    foul = mushroom.x_train[:, mushroom.features.index("odor=f")] == 1
    almond = mushroom.x_train[:, mushroom.features.index("odor=a")] == 1
    assert (mushroom.y_train[foul] == 1).all()
    assert (mushroom.y_train[almond] == 0).all()


def test_mushroom_is_split_in_proportion_by_fraction_and_seed(mushroom, shared):
    assert (counts(mushroom.y_train), counts(mushroom.y_test)) == ([3156, 2937], [1052, 979])
    assert the_same(mushroom, load(shared("mushroom"), test_fraction=0.25, split_seed=0))
    assert not torch.equal(mushroom.x_test, load(shared("mushroom"), split_seed=1).x_test)
    assert len(load(shared("mushroom"), test_fraction=0.5).x_test) == 4062


def test_climate_leaves_study_and_run_out_and_holds_140_rows_back(climate):
    assert (climate.name, climate.classes) == ("climate", ("crashed", "succeeded"))
    assert (climate.x_train.shape, climate.x_test.shape) == ((400, 18), (140, 18))
    assert (counts(climate.y_train), counts(climate.y_test)) == ([34, 366], [12, 128])
    assert (climate.features[0], climate.features[-1]) == ("vconst_corr", "Prandtl")


def test_climate_is_standardised_by_the_training_part_alone(climate):
    deviation, mean = torch.std_mean(climate.x_train, dim=0, correction=0)
    assert mean.abs().max() < 1e-6
    torch.testing.assert_close(deviation, torch.ones(18))
    assert climate.x_test.mean(dim=0).abs().max() > 0.01


def test_climate_takes_another_fraction_and_seed(climate, shared):
    assert len(load(shared("climate"), test_fraction=0.25).x_test) == 135
    other = load(shared("climate"), split_seed=1)
    assert counts(other.y_test) == [12, 128]
    assert not torch.equal(other.x_test, climate.x_test)


@pytest.mark.parametrize("surplus", [True, False])
def test_climate_from_openml_is_the_same_with_study_and_run_or_without(climate, shared, openml, surplus):
    lines = (shared("climate") / "pop_failures.dat").read_text().splitlines()
    cells = np.array([line.split() for line in lines[1:]])
    data, names = cells[:, :-1].astype(float), lines[0].split()[:-1]
    start = 0 if surplus else 2
    asked = openml(data[:, start:], cells[:, -1], names=names[start:])
    got = load("climate")
    assert asked[0]["data_id"] == 40994
    assert the_same(got, climate)
    assert (got.name, got.classes, got.features) == (climate.name, climate.classes, climate.features)


def test_climate_from_openml_knows_the_crashes_as_the_rarer_class(climate, shared, openml):
    cells = np.loadtxt(shared("climate") / "pop_failures.dat", skiprows=1)
    openml(cells[:, :-1], np.where(cells[:, -1] == 0, "2", "1"))
    assert torch.equal(load("climate").y_train, climate.y_train)


def test_mushroom_from_openml_is_the_same(mushroom, shared, openml):
    cells = letters(shared("mushroom") / "agaricus-lepiota.data")
    data, categories = indices(cells[:, 1:])
    asked = openml(data, cells[:, 0], categories)
    got = load("mushroom")
    assert asked[0]["data_id"] == 24
    assert the_same(got, mushroom)
    assert (got.name, got.classes, got.features) == (mushroom.name, mushroom.classes, mushroom.features)


def dna_table(dna):
    data = torch.cat([dna.x_train, dna.x_test]).numpy()
    target = torch.cat([dna.y_train, dna.y_test]).add(1).numpy().astype(str)
    return 1 - data, target, {f"V{i}": ["1", "0"] for i in range(1, 181)}


def test_dna_from_openml_is_the_same(dna, openml):
    asked = openml(*dna_table(dna))
    got = load("dna")
    assert asked[0]["data_id"] == 40670
    assert the_same(got, dna)
    assert (got.name, got.classes, got.features) == (dna.name, dna.classes, dna.features)


def test_dna_from_openml_in_another_order_is_refused(dna, openml):
    data, target, categories = dna_table(dna)
    order = np.random.default_rng(0).permutation(len(target))
    openml(data[order], target[order], categories)
    with pytest.raises(
        ValueError, match=r"OpenML's data set 40670 is not the published one.*expected \[464, 485, 1051\]"
    ):
        load("dna")


@pytest.mark.parametrize(
    ("name", "data", "target", "message"),
    [
        ("dna", np.zeros((3186, 179)), ["1"] * 3186, "3186 x 179 features, expected 3186 x 180"),
        ("dna", np.full((3186, 180), 2), ["1"] * 3186, "features that are not 0 or 1"),
        ("mushroom", np.zeros((8124, 22)), ["e"] * 8124, "'V1' is not nominal"),
        ("climate", np.zeros((540, 20)), ["0"] * 540, "not the numbers of study and run"),
        ("climate", np.full((540, 18), 1.5), ["0"] * 540, "features outside of 0 to 1"),
        ("climate", np.zeros((540, 18)), ["0"] * 540, r"\[540\] rows of the classes, expected \[46, 494\]"),
    ],
)
def test_another_table_from_openml_is_refused_with_the_files_to_get(openml, name, data, target, message):
    openml(data, target)
    with pytest.raises(ValueError, match=message) as caught:
        load(name)
    assert "Put these into a folder" in str(caught.value)


def test_mushrooms_from_openml_with_unknown_values_are_refused(openml):
    openml(np.zeros((8124, 22)), ["e"] * 8124, {f"V{i}": ["f"] for i in range(1, 23)})
    with pytest.raises(ValueError, match="values that the mushrooms do not have"):
        load("mushroom")
