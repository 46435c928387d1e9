import pytest
import torch
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # speed is for benchmarks; the first example may load a library
settings.load_profile("untimed")

WINE = """
paper:
  weights: 1000
  epochs: 3
  accuracy: {"0.5": 0.5, "0.8": 0.999}
sparsities: [0.5, 0.8]
split_by_seed: 0.25
settings: {hidden: [16, 16], epochs: 3, batch_size: 32}
methods:
  semi-pruning:
    default: {p: 1.2, lr: 0.02}
    "0.8": {lr: 0.03, regrow: 0.2}
  set: {default: {lr: 0.1}}
  dense: {default: {lr: 0.05}}
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Networks this small are many times slower on several threads; tests that are about threads set their own."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def wine_table(monkeypatch):
    """Make wine the only data set of the benchmark table; returns its recipe."""
    from lpsphere.experiments import ablation, ablation_page, recipe_words, recipes, results_page, table, table_search

    recipe = recipes.parse_recipe("wine", WINE)

    def load_recipe(data):
        if data != "wine":
            raise ValueError(f"the table has no data set {data!r}: choose from wine")
        return recipe

    for module in (ablation, ablation_page, table, table_search, results_page):
        monkeypatch.setattr(module, "load_recipe", load_recipe)
    for module in (ablation_page, results_page, table):
        monkeypatch.setattr(module, "DATA", ("wine",))
    monkeypatch.setitem(recipe_words.TITLES, "wine", "Wine")
    return recipe
