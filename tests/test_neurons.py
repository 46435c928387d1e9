import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lpsphere import LpSphereWarning
from lpsphere.groups import param_groups
from lpsphere.models.wide_resnet import WideResNet
from lpsphere.neurons import NeuronLayout, Rule, SegmentLayout, select

LEAVE = {"p": None, "sparse": False}


def names(model, *args, **kwargs):
    return [neuron.name for neuron in select(model, *args, **kwargs)]


def mlp():
    return nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)
    )


class Named(nn.Module):
    """Children under names of the test's choice, in the order given."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class Custom(nn.Module):
    """A layer of another type; its transposed weight holds neurons along dimension 1."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(7, 3))
        self.scale = nn.Parameter(torch.ones(3))

    def neuron_rows(self, name):
        return NeuronLayout(neuron_dim=1) if name == "kernel" else None


LAYERS = [
    (nn.Linear(6, 5), (2, 6), 5, 6),
    (nn.Conv1d(4, 5, 3), (2, 4, 8), 5, 12),
    (nn.Conv2d(4, 5, 3), (2, 4, 6, 6), 5, 36),
    (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4), 3, 16),
    (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6), 6, 18),
    (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6), 8, 9),
    (nn.ConvTranspose1d(4, 5, 3), (2, 4, 6), 5, 12),
    (nn.ConvTranspose2d(4, 5, 3), (2, 4, 5, 5), 5, 36),
    (nn.ConvTranspose3d(2, 3, 2), (2, 2, 3, 3, 3), 3, 16),
    (nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 6), 6, 6),
    (nn.ConvTranspose2d(6, 9, 3, groups=3), (2, 6, 5, 5), 9, 18),
    (nn.ConvTranspose2d(4, 4, 3, groups=4), (2, 4, 5, 5), 4, 9),
]
IDS = [repr(layer).replace(" ", "") for layer, *_ in LAYERS]


@pytest.mark.parametrize(("layer", "shape", "neurons", "fan_in"), LAYERS, ids=IDS)
@torch.no_grad()
def test_each_row_makes_exactly_one_output_channel(layer, shape, neurons, fan_in):
    (neuron,) = select(layer)
    weight = layer.weight
    assert (neuron.neurons, neuron.fan_in) == (neurons, fan_in)
    rows = neuron.layout.to_rows(weight).clone()
    assert rows.shape == (neurons, fan_in)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, original = layer(x), weight.clone()
    channel = 1
    for i in range(neurons):
        changed = rows.clone()
        changed[i] += 1
        weight.copy_(neuron.layout.from_rows(changed, weight))
        differs = (layer(x) != before).transpose(0, channel).flatten(1).any(1)
        assert differs.nonzero().flatten().tolist() == [i]
        weight.copy_(original)


@pytest.mark.parametrize(("layer", "shape", "neurons", "fan_in"), LAYERS, ids=IDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_make_the_round_trip(layer, shape, neurons, fan_in, channels_last):
    (neuron,) = select(layer)
    weight = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
    if channels_last and weight.ndim == 4:
        weight = weight.to(memory_format=torch.channels_last)
    rows = neuron.layout.to_rows(weight)
    assert torch.equal(neuron.layout.from_rows(rows, weight), weight)
    assert torch.equal(neuron.layout.to_rows(neuron.layout.from_rows(2 * rows, weight)), 2 * rows)
    assert neuron.layout.neurons(weight) == neurons
    assert torch.equal(rows.sort(1).values.flatten().sort().values, weight.flatten().sort().values)
    split, dims = neuron.layout.split(weight), neuron.layout.fan_in_dims(weight)
    assert split.data_ptr() == weight.data_ptr()
    torch.testing.assert_close(split.sum(dims).flatten(), rows.sum(1))


def test_rows_do_not_depend_on_the_memory_order():
    weight = torch.randn(6, 4, 3, 3)
    layout = NeuronLayout(1, 2)
    assert torch.equal(layout.to_rows(weight), layout.to_rows(weight.to(memory_format=torch.channels_last)))


def test_groups_of_neurons_along_dimension_0_are_all_neurons():
    weight = torch.randn(6, 4)
    layout = NeuronLayout(0, 2)
    assert (layout.neurons(weight), layout.fan_in(weight)) == (6, 4)
    assert torch.equal(layout.to_rows(weight), weight)
    assert torch.equal(layout.from_rows(weight, weight), weight)


@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}])
@torch.no_grad()
def test_attention_projections_are_neurons_packed_or_apart(widths):
    attention = nn.MultiheadAttention(8, 2, **widths)
    parts = ["q_proj_weight", "k_proj_weight", "v_proj_weight"] if widths else ["in_proj_weight"]
    assert names(attention, include_last=True) == [*parts, "out_proj.weight"]
    assert names(attention) == parts
    found = select(attention)
    assert [n.fan_in for n in found] == ([8, 6, 10] if widths else [8])
    assert [n.neurons for n in found] == ([8, 8, 8] if widths else [24])
    query, key, value = (
        torch.randn(3, 1, 8),
        torch.randn(4, 1, widths.get("kdim", 8)),
        torch.randn(4, 1, widths.get("vdim", 8)),
    )
    attention.out_proj.weight.copy_(torch.eye(8))
    before = attention(query, key, value, need_weights=False)[0]
    rows = found[-1].layout.to_rows(found[-1].weight).clone()
    rows[-3] += 1  # a neuron of the value projection makes one channel of the output
    found[-1].weight.copy_(found[-1].layout.from_rows(rows, found[-1].weight))
    after = attention(query, key, value, need_weights=False)[0]
    assert (after != before).flatten(0, 1).any(0).nonzero().flatten().tolist() == [5]


def test_the_last_layer_is_left_out_unless_asked_for():
    assert names(mlp()) == ["0.weight", "3.weight"]
    assert names(mlp(), include_last=True) == ["0.weight", "3.weight", "5.weight"]


def test_a_single_layer_is_kept():
    assert names(nn.Linear(3, 2)) == ["weight"]
    assert names(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))) == ["0.weight"]


def test_norms_biases_and_neurons_of_one_weight_are_not_selected():
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3), nn.PReLU(4), nn.Linear(4, 4))
    assert names(model, include_last=True) == ["2.weight", "4.weight"]


def test_tied_weights_count_once():
    model = Named(a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2))
    model.b.weight = model.a.weight
    assert names(model) == ["a.weight"]


def test_a_weight_tied_to_the_output_layer_is_left_out_with_it():
    model = Named(a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4))
    model.c.weight = model.a.weight
    assert names(model) == ["b.weight"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("table", [nn.Embedding(9, 4), nn.EmbeddingBag(9, 4)])
def test_a_weight_shared_with_an_embedding_is_left_out_wherever_the_embedding_stands(first, table):
    head, body = nn.Linear(4, 9, bias=False), nn.Linear(4, 4)
    head.weight = table.weight
    order = {"table": table, "body": body, "head": head} if first else {"head": head, "body": body, "table": table}
    assert names(Named(**order), include_last=True) == ["body.weight"]


def test_frozen_weights_are_left_out():
    model = mlp()
    model[0].weight.requires_grad_(False)
    assert names(model, include_last=True) == ["3.weight", "5.weight"]


def test_an_embedding_takes_part_only_by_a_rule_that_names_its_type():
    model = Named(table=nn.Embedding(9, 4), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    assert names(model) == ["a.weight"]
    assert names(model, [Rule("*")]) == ["a.weight"]
    assert names(model, [Rule(types=(nn.Module,))]) == ["a.weight"]
    assert names(model, [Rule(types=(nn.Embedding,))]) == ["table.weight", "a.weight"]
    assert names(model, [Rule("*"), Rule(types=(nn.Embedding, nn.Conv2d))]) == ["table.weight", "a.weight"]
    with pytest.raises(ValueError, match="matches nothing"):
        select(model, [Rule("table")])


class WithBilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.pair, self.head = nn.Linear(4, 4), nn.Bilinear(4, 4, 4), nn.Linear(4, 2)


def test_a_bilinear_layer_is_refused_only_when_a_rule_reaches_it():
    assert names(WithBilinear()) == ["body.weight"]
    assert names(WithBilinear(), [Rule("body", p=1.3)]) == ["body.weight"]
    for rule in (Rule("*"), Rule("pair", p=None), Rule(types=(nn.Bilinear,), p=1.2), Rule("pair.weight")):
        with pytest.raises(
            TypeError, match=r"layer 'pair' is nn.Bilinear.*Rule\('pair', p=None, sparse=False\) before"
        ):
            select(WithBilinear(), [rule])


def test_the_remedy_for_a_bilinear_layer_works():
    assert names(WithBilinear(), [Rule("pair", **LEAVE), Rule("*", p=1.3)]) == ["body.weight"]


def weight_norm(layer):
    parametrizations.weight_norm(layer)


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(layer)


def pruned(layer):
    prune.random_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize("computed", [weight_norm, old_weight_norm, pruned])
def test_a_computed_weight_is_an_error_and_its_remedy_works(computed):
    model = mlp()
    computed(model[0])
    with pytest.raises(ValueError, match=r"weight of layer '0' is computed by a parametrization.*Rule\('0', p=None"):
        select(model)
    assert names(model, [Rule("0", **LEAVE)]) == ["3.weight"]
    groups = param_groups(model, 1.2, lr=0.1, other_lr=0.1, rules=[Rule("0", **LEAVE)])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_computed_weight_of_the_output_layer_matters_only_when_that_is_asked_for():
    model = mlp()
    weight_norm(model[5])
    assert names(model) == ["0.weight", "3.weight"]
    with pytest.raises(ValueError, match="layer '5' is computed"):
        select(model, include_last=True)


def test_a_lazy_layer_is_an_error_until_its_first_forward_pass():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="layer '0' is lazy and has no weights yet: run one forward pass first"):
        select(model)
    model(torch.randn(3, 5))
    assert names(model) == ["0.weight"]


def test_a_layer_of_another_type_takes_part_by_its_neuron_rows():
    model = Named(a=Custom(), b=nn.Linear(3, 2))
    (neuron,) = select(model)
    assert (neuron.name, neuron.neurons, neuron.fan_in) == ("a.kernel", 3, 7)
    assert torch.equal(neuron.layout.to_rows(neuron.weight), model.a.kernel.T)
    assert names(Named(a=nn.Linear(3, 7), b=Custom())) == ["a.weight"]  # it may be the output layer too


@pytest.mark.parametrize("model", [nn.Sequential(nn.ReLU()), nn.Embedding(3, 4), nn.Linear(3, 2).requires_grad_(False)])
def test_nothing_to_select_is_an_error(model):
    with pytest.raises(ValueError, match=rf"{type(model).__name__} has no trainable Linear.*neuron_rows.*or unfreeze"):
        select(model)


def test_the_weight_is_read_from_the_module_as_it_is_now():
    model = mlp()
    neuron = select(model)[0]
    model[0].weight = nn.Parameter(torch.zeros(5, 6))
    assert neuron.weight is model[0].weight


def test_rules_match_by_layer_or_parameter_name_and_by_type():
    linear, conv = nn.Linear(2, 2), nn.Conv2d(2, 2, 3)
    assert Rule("stage1.*").matches("stage1.0.conv", "stage1.0.conv.weight", conv)
    assert not Rule("stage1.*").matches("stage10", "stage10.weight", conv)
    assert Rule("encoder.*.weight").matches("encoder.a", "encoder.a.weight", linear)
    assert Rule("fc").matches("fc", "fc.weight", linear)
    assert not Rule("FC").matches("fc", "fc.weight", linear)
    assert Rule(types=(nn.Conv2d,)).matches("a", "a.weight", conv)
    assert not Rule(types=(nn.Conv2d,)).matches("a", "a.weight", linear)
    assert not Rule("b", types=(nn.Conv2d,)).matches("a", "a.weight", conv)


def test_the_first_rule_that_matches_wins():
    rules = [Rule("0", p=1.4), Rule(types=(nn.Linear,), p=1.1, sparse=False)]
    found = select(mlp(), rules)
    assert [n.rule for n in found] == rules
    assert [n.sparse for n in found] == [True, False]
    assert all(n.sparse and n.rule is None for n in select(mlp()))


def test_a_rule_that_matches_only_the_output_layer_says_how_to_include_it():
    with pytest.raises(ValueError, match=r"Rule\(pattern='5'.*matches only the output layer.*pass include_last=True"):
        select(mlp(), [Rule("5", p=1.3)])
    assert select(mlp(), [Rule("5", p=1.3)], include_last=True)[-1].rule == Rule("5", p=1.3)
    assert names(mlp(), [Rule("5", **LEAVE)]) == ["0.weight", "3.weight"]  # what it asks for is the case


def test_a_rule_whose_layers_are_taken_says_so():
    with pytest.raises(ValueError, match=r"pattern='3'.*earlier rules take all of its layers: put it before them"):
        select(mlp(), [Rule("*"), Rule("3", p=1.3)])


def test_a_rule_with_a_wrong_name_lists_the_weights():
    with pytest.raises(
        ValueError, match=r"'stem'.*correct its pattern or types; the weights are 0.weight, 3.weight, 5"
    ):
        select(mlp(), [Rule("stem", p=1.3)])


def test_a_rule_for_a_weight_that_cannot_be_selected_says_why():
    model = mlp()
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"reaches only 0.weight, which is frozen: take the rule out"):
        select(model, [Rule("0", p=1.3)])
    model = Named(
        table=nn.Embedding(4, 4), a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Conv1d(1, 2, 1), d=nn.Linear(2, 2)
    )
    model.a.weight = model.table.weight
    with pytest.raises(ValueError, match=r"a.weight, which is shared with an embedding"):
        select(model, [Rule("a", p=1.3)])
    with pytest.raises(ValueError, match=r"c.weight, which has neurons of a single weight"):
        select(model, [Rule("c", p=1.3)])
    model.d.weight = model.b.weight
    with pytest.raises(ValueError, match=r"d.weight, which is shared with an earlier layer"):
        select(model, [Rule("d", p=1.3)], include_last=True)


@pytest.mark.parametrize("p", [1, 0.5, -1.0, float("nan"), float("inf")])
def test_an_exponent_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match="p of the rule must be finite and greater than 1"):
        Rule("a", p=p)
    with pytest.raises(ValueError, match="p must be finite and greater than 1"):
        param_groups(mlp(), p, lr=0.1, other_lr=0.1)


def test_other_wrong_arguments_of_a_rule_are_refused():
    with pytest.raises(ValueError, match=r'needs a name pattern such as "stage1.\*", or types='):
        Rule(p=1.2)
    with pytest.raises(TypeError, match="p of the rule must be a number greater than 1, got 'small'"):
        Rule("a", p="small")
    with pytest.raises(TypeError, match=r"tuple of module types such as \(nn.Conv2d,\), got <class"):
        Rule(types=nn.Conv2d)


@pytest.mark.parametrize("radius", [0, -1.0, float("nan"), float("inf")])
def test_a_radius_out_of_range_is_refused(radius):
    with pytest.raises(ValueError, match=r'radius must be a positive number or "init", got'):
        Rule("a", radius=radius)
    with pytest.raises(ValueError, match=r'radius must be a positive number or "init", got'):
        param_groups(mlp(), 1.2, lr=0.1, other_lr=0.1, radius=radius)


@pytest.mark.parametrize("radius", ["one", True, [1.0]])
def test_a_radius_of_another_kind_is_refused(radius):
    with pytest.raises(TypeError, match=r'radius must be a positive number or "init", got'):
        param_groups(mlp(), 1.2, lr=0.1, other_lr=0.1, radius=radius)


def test_groups_hold_what_the_optimizer_asks_for():
    model = mlp()
    sphere, rest = param_groups(model, 1.2, lr=0.02, other_lr=0.2, weight_decay=1e-4)
    assert {k: v for k, v in sphere.items() if k != "params"} == {
        "name": "sphere p=1.2",
        "lr": 0.02,
        "p": 1.2,
        "radius": 1.0,
        "neuron_dim": 0,
        "neuron_groups": 1,
        "weight_decay": 0.0,
    }
    assert {k: v for k, v in rest.items() if k != "params"} == {
        "name": "rest",
        "lr": 0.2,
        "p": None,
        "weight_decay": 1e-4,
    }
    assert [id(p) for p in sphere["params"]] == [id(model[0].weight), id(model[3].weight)]


def test_rules_make_groups_of_their_own():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 4, 3, groups=2),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Linear(4, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 2),
    )
    rules = [Rule("0", p=1.4), Rule("4", p=None), Rule("6", radius="init")]
    groups = param_groups(model, 1.2, lr=0.02, other_lr=0.2, rules=rules)
    assert [(g["name"], g["p"], g.get("radius"), g.get("neuron_dim"), g.get("neuron_groups")) for g in groups] == [
        ("sphere p=1.4", 1.4, 1.0, 0, 1),
        ("sphere p=1.2 transposed", 1.2, 1.0, 1, 2),
        ("sphere p=1.2", 1.2, "init", 0, 1),
        ("rest", None, None, None, None),
    ]
    assert any(model[4].weight is p for p in groups[-1]["params"])


def test_without_p_only_the_rules_put_weights_on_spheres():
    groups = param_groups(mlp(), None, lr=0.02, other_lr=0.2, rules=[Rule("3", p=1.3)])
    assert [(g["p"], len(g["params"])) for g in groups] == [(1.3, 1), (None, 9)]
    assert [g["p"] for g in param_groups(mlp(), None, lr=0.02, other_lr=0.2)] == [None]


@pytest.mark.parametrize("include_last", [False, True])
def test_every_parameter_is_in_exactly_one_group(include_last):
    model = Named(
        table=nn.Embedding(9, 4),
        attention=nn.MultiheadAttention(4, 2),
        up=nn.ConvTranspose1d(4, 4, 3, groups=2),
        norm=nn.BatchNorm1d(4),
        frozen=nn.Linear(4, 4).requires_grad_(False),
        custom=Custom(),
        head=nn.Linear(4, 9),
    )
    model.head.weight = model.table.weight
    groups = param_groups(
        model, 1.2, lr=0.1, other_lr=0.1, radius="init", include_last=include_last, rules=[Rule("up", p=1.5)]
    )
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_printing_the_groups_shows_a_table():
    table = str(param_groups(mlp(), 1.2, lr=0.02, other_lr=0.2, weight_decay=1e-4)).splitlines()
    assert [line.split() for line in table] == [
        ["group", "p", "radius", "lr", "weight", "decay", "tensors", "weights"],
        ["sphere", "p=1.2", "1.2", "1.0", "0.02", "0", "2", "50"],
        ["rest", "-", "-", "0.2", "0.0001", "8", "42"],
    ]
    column = table[0].index("tensors")
    assert [line[column:].split()[0] for line in table] == ["tensors", "2", "8"]


def groups_of(model, **kwargs):
    return param_groups(model, 1.2, lr=0.1, other_lr=0.1, **kwargs)


def test_unit_spheres_without_normalisation_warn_and_name_the_remedy():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.warns(
        LpSphereWarning, match=r'no normalisation follows 0.weight: with unit radius.*radius="init"'
    ) as w:
        groups_of(model)
    assert len(w) == 1
    assert w[0].filename == __file__


def test_the_warning_names_five_weights_and_says_there_are_more():
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(8)])
    with pytest.warns(LpSphereWarning, match=r"follows 0.weight, 1.weight, 2.weight, 3.weight, 4.weight, \.\.\.: with"):
        groups_of(model)


def test_attention_without_normalisation_is_named():
    with pytest.warns(LpSphereWarning, match=r"follows in_proj_weight: "):
        groups_of(nn.MultiheadAttention(4, 2))
    with pytest.warns(LpSphereWarning, match=r"follows q_proj_weight, k_proj_weight, v_proj_weight: "):
        groups_of(nn.MultiheadAttention(4, 2, kdim=6, vdim=6))


def test_a_layer_without_norm_before_a_linear_layer_of_flattened_maps_is_named():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.warns(LpSphereWarning, match=r"follows 0.weight: "):
        groups_of(model)


class PreActivation(nn.Module):
    """A block in the order norm, convolution; a shortcut where the width changes, registered last."""

    def __init__(self, width, out):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, out, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, padding=1)
        if width != out:
            self.shortcut = nn.Conv2d(width, out, 1)


NORMALISED = {
    "convolution and batch norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)),
    "linear and layer norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)),
    "group norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2)),
    "instance norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.Linear(4, 2)),
    "pre-activation": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3),
        PreActivation(4, 4),
        PreActivation(4, 8),
        PreActivation(8, 8),
        nn.BatchNorm2d(8),
        nn.Linear(8, 2),
    ),
    "wide ResNet": lambda: WideResNet((1, 2, 2), 4),
    "last layer": mlp,
}


@pytest.mark.parametrize("build", NORMALISED.values(), ids=NORMALISED.keys())
def test_unit_spheres_with_normalisation_do_not_warn(build):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups_of(build())


@pytest.mark.parametrize("radius", ["init", 2.5])
def test_other_radii_do_not_warn(radius):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), radius=radius)
        groups_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), rules=[Rule("*", radius=radius)])


class Held:
    """The structure of a layer that holds only its connections: 3, none and 2 of 4."""

    in_features, out_features = 4, 3
    row_pointers = torch.tensor([0, 3, 3, 5], dtype=torch.int32)
    columns = torch.tensor([0, 1, 3, 1, 2], dtype=torch.int32)


def test_segments_make_rows_as_long_as_the_longest():
    layout, values = SegmentLayout(Held()), torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0])
    rows = layout.to_rows(values)
    assert rows.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert torch.equal(layout.from_rows(rows, values), values)
    assert layout.to_rows(layout.existing(values)).tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert (layout.neurons(values), layout.fan_in(values)) == (3, 4)
    assert layout.split(values) is values


def test_segments_follow_the_structure_of_their_layer():
    held = Held()
    layout, values = SegmentLayout(held), torch.ones(5)
    held.row_pointers = torch.tensor([0, 1, 2, 5])
    assert layout.to_rows(values).sum(1).tolist() == [1, 1, 3]
    held.row_pointers = torch.tensor([0, 0, 0, 0])
    assert layout.to_rows(values[:0]).shape == (3, 0)


def test_segments_take_whole_rows_too():
    layout = SegmentLayout(Held())
    assert layout.fan_in_dims(torch.ones(2, 4)) == (1,)
    assert layout.fan_in_dims(torch.ones(5)).pointers is Held.row_pointers
