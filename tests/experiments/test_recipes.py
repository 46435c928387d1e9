import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lpsphere.data import Dataset
from lpsphere.experiments.recipes import DATA, TABLE_METHODS, load_recipe, parse_recipe
from lpsphere.experiments.table_search import spaces
from lpsphere.models import build
from lpsphere.training.setup import load_data, make_optimizer, make_topology, model_config

SHAPES = {
    "dna": ((180,), 3),
    "mushroom": ((117,), 2),
    "climate": ((18,), 2),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar-10": ((3, 32, 32), 10),
    "tiny-imagenet": ((3, 64, 64), 200),
}
PUBLISHED = {  # weights, epochs, accuracies at 0.5, 0.8, 0.9
    "dna": (936_195, 40, 0.9533, 0.9233, 0.9755),
    "mushroom": (90_562, 20, 1.0, 0.9890, 0.7172),
    "climate": (76_738, 20, 0.9714, 0.9643, 0.9214),
    "mnist": (170_298, 40, 0.9957, 0.9953, 0.9946),
    "fashion-mnist": (267_514, 50, 0.9443, 0.9391, 0.9329),
    "cifar-10": (1_154_074, 250, 0.9423, 0.9383, 0.9310),
    "tiny-imagenet": (4_644_120, 250, 0.6377, 0.6295, 0.6042),
}
BUDGET = ("model", "hidden", "norm", "blocks", "width", "epochs", "batch_size", "schedule")
EFFORT = ("trials", "splits", "finalists", "final_splits")
AUGMENTATION = ("crop", "flip", "cutout")
SHARED = Path(os.environ.get("LPSPHERE_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
SEARCHES = Path(__file__).parents[2] / "results" / "table-search"
TEXT = """
paper: {weights: 10, epochs: 1, accuracy: {"0.5": 0.9}}
sparsities: [0.5, 0.9]
settings: {epochs: 1, p: 1.3}
methods:
  semi-pruning: {default: {p: 1.2, lr: 0.02}, "0.9": {p: 1.1}}
  rigl: {default: {lr: 0.2}}
  dense: {default: {}}
"""


def configs(data):
    recipe = load_recipe(data)
    yield recipe.config("dense", 0.0)
    for method in TABLE_METHODS:
        if method != "dense":
            yield from (recipe.config(method, sparsity) for sparsity in recipe.sparsities)


def searches(data):
    """By method and sparsity: what a search found, and the settings that its runs share."""
    found = {}
    for path in SEARCHES.glob(f"{data}-*.json"):
        method, _, sparsity = path.stem.removeprefix(f"{data}-").rpartition("-")
        content = json.loads(path.read_text(encoding="utf-8"))
        found[method, float(sparsity)] = content["table"][0], content["settings"]
    return found


def network(data, config):
    shape, classes = SHAPES[data]
    x, y = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long)
    rows = Dataset(data, "classification", x, y, x, y, tuple(map(str, range(classes))), ())
    return build(model_config(config, rows))


@pytest.mark.parametrize("data", DATA)
def test_what_was_published_is_in_the_recipe(data):
    paper = load_recipe(data).paper
    assert (paper.weights, paper.epochs, *(paper.accuracy[s] for s in (0.5, 0.8, 0.9))) == PUBLISHED[data]
    assert set(paper.accuracy) <= set(load_recipe(data).sparsities)
    assert max(load_recipe(data).sparsities) > 0.9


@pytest.mark.parametrize("data", DATA)
def test_no_network_is_larger_and_none_is_trained_for_longer_than_the_paper_s(data):
    weights, epochs, *_ = PUBLISHED[data]
    for config in configs(data):
        assert config.epochs <= epochs
    parameters = sum(weight.numel() for weight in network(data, config).parameters())
    assert parameters <= weights
    if data in ("mnist", "fashion-mnist", "cifar-10", "tiny-imagenet"):
        assert parameters == weights


@pytest.mark.parametrize("data", DATA)
def test_all_methods_have_the_same_network_and_budget(data):
    assert set(load_recipe(data).methods) == set(TABLE_METHODS)
    assert len({tuple(getattr(config, name) for name in BUDGET) for config in configs(data)}) == 1
    assert searches(data) or len({config.dropout for config in configs(data)}) == 1
    sparse = {(config.sparsity, *(getattr(config, name) for name in AUGMENTATION))
              for config in configs(data) if config.method != "dense"}  # fmt: skip
    assert len(sparse) == len({config.sparsity for config in configs(data) if config.method != "dense"})
    assert {config.optimizer for config in configs(data) if config.method != "semi-pruning"} == {"sgd"}
    assert {config.optimizer for config in configs(data) if config.method == "semi-pruning"} == {"lpsgd"}


@pytest.mark.parametrize("data", ["climate", "dna"])
def test_every_method_was_searched_with_the_same_effort_and_has_what_was_found(data):
    found = searches(data)
    assert {method for method, _ in found} == set(TABLE_METHODS)
    assert len(found) == len(TABLE_METHODS)
    assert len({sparsity for method, sparsity in found if method != "dense"}) == 1
    assert len({tuple(row.get(name) for name in EFFORT) for row, _ in found.values()}) == 1
    for (method, sparsity), (row, trained) in found.items():
        config = load_recipe(data).config(method, sparsity)
        values = {**config.to_dict(), "lr": config.peak_lr}
        assert {name: trained[name] for name in BUDGET} == {name: values[name] for name in BUDGET}
        assert set(row) - {"validation_accuracy", *EFFORT} == set(spaces(config))
        assert {name: row[name] for name in spaces(config)} == {name: values[name] for name in spaces(config)}


@pytest.mark.parametrize("data", DATA)
def test_every_method_can_be_attached_at_every_sparsity(data):
    steps = 100 * load_recipe(data).paper.epochs
    for config in configs(data):
        model = network(data, config)
        topology = make_topology(config, model, make_optimizer(config, model), steps)
        if topology is not None:
            topology.detach()
            last = (config.epochs - config.average) / config.epochs * steps
            assert not config.average or topology.schedule.last <= last


def test_digits_are_not_flipped():
    assert not load_recipe("mnist").config("semi-pruning", 0.9).flip
    assert load_recipe("fashion-mnist").config("semi-pruning", 0.9).flip


def test_settings_of_a_sparsity_win_over_those_of_the_method_and_these_over_the_shared_ones():
    recipe = parse_recipe("wine", TEXT)
    assert [recipe.config("semi-pruning", s).p for s in (0.5, 0.9)] == [1.2, 1.1]
    assert recipe.config("semi-pruning", 0.9).lr == 0.02
    assert recipe.config("rigl", 0.9).p == 1.3
    assert (recipe.config("rigl", 0.9, seed=4).seed, recipe.config("rigl", 0.9).sparsity) == (4, 0.9)
    assert recipe.config("dense", 0.0).target_sparsity == 0


@pytest.mark.parametrize(("line", "split"), [("split_by_seed: 0.25", 3), ("split_by_seed: 0", 0), ("", 0)])
def test_rows_are_split_by_seed_where_the_recipe_says_so(line, split):
    recipe = parse_recipe("wine", f"{TEXT}\n{line}")
    assert recipe.config("rigl", 0.5, seed=3).split_seed == split


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"0.9":', '"0.8":'), "settings of semi-pruning at 0.8, but its sparsities are 0.5, 0.9"),
        (("paper:", "papers:"), "must have the parts methods, paper, settings, sparsities, and may split_by_seed"),
    ],
)
def test_a_recipe_that_is_none_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_recipe("wine", TEXT.replace(*change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{lr: 0.2}", "{lr: 0.2, regrow: 0.5}"), "rigl takes no regrow"),
        (("{lr: 0.2}", "{colour: red}"), "unknown settings colour"),
        (("rigl:", "gmp:"), "the recipe of wine has no method 'rigl': choose from semi-pruning, gmp, dense"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_recipe("wine", TEXT.replace(*change)).config("rigl", 0.5)


def test_an_unknown_data_set_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"the table has no data set 'iris': choose from dna, mushroom"):
        load_recipe("iris")


def test_all_published_accuracies_are_fractions():
    assert all(math.isfinite(a) and 0 < a <= 1 for data in DATA for a in load_recipe(data).paper.accuracy.values())


@pytest.mark.skipif(not (SHARED / "climate").is_dir(), reason="needs the folder climate in LPSPHERE_DATA")
def test_the_share_that_climate_tests_is_what_its_recipe_says():
    data = load_data(replace(load_recipe("climate").config("dense", 0.0), data_dir=str(SHARED)))
    tested, trained = len(data.x_test), len(data.x_train)
    assert load_recipe("climate").split_by_seed == pytest.approx(tested / (tested + trained), abs=5e-4)
    assert [name for name in DATA if load_recipe(name).split_by_seed] == ["climate"]
