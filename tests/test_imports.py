"""Who may import whom (DESIGN, section 2): the layers of the house, read from the source of every file."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
LAYERS = [
    {"distributed", "files", "geometry", "kernels", "memory", "text", "theory"},
    {"neurons", "groups", "metrics", "prediction", "flops"},
    {"optim", "topology"},
    {"sparse"},
    {"training"},
    {"experiments", "report"},
    {"cli", "integrations"},
    {"__main__"},
]
LEAVES = {"data", "models"}
WITHIN = {
    ("theory", "geometry"),
    ("metrics", "neurons"),
    ("prediction", "neurons"),
    ("groups", "neurons"),
    ("flops", "neurons"),
}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def module_name(path, source=SOURCE):
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, modules, source=SOURCE):
    """The modules of the package that a file imports, inside functions too."""
    name = module_name(path, source)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "lpsphere")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            if base.split(".")[0] == "lpsphere":
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield full if full in modules else base


def graph(source=SOURCE):
    files = {module_name(path, source): path for path in sorted((source / "lpsphere").rglob("*.py"))}
    return {name: set(imports(path, files, source)) for name, path in files.items()}


def forbidden(importer, imported):
    """Why one part of the house may not import the other, or None."""
    if importer == imported:
        return None
    if importer in LEAVES:
        return "a leaf imports nothing of the package"
    if imported in LEAVES:
        return None if RANK[importer] >= RANK["training"] else "only training and later use the leaves"
    if RANK[imported] < RANK[importer] or (importer, imported) in WITHIN:
        return None
    return "it is not to the left"


def offences(modules):
    found = []
    for name, targets in modules.items():
        if name == "lpsphere":
            continue
        for target in targets:
            if target == "lpsphere":
                found.append(f"{name} imports the package itself: import the module that holds the name")
                continue
            reason = forbidden(name.split(".")[1], target.split(".")[1])
            if reason:
                found.append(f"{name} imports {target}: {reason}")
    return sorted(found)


def test_every_part_of_the_house_has_its_place():
    parts = {name.split(".")[1] for name in graph() if name.count(".")}
    assert {"geometry", "neurons", "optim"} <= parts
    assert parts <= set(RANK) | LEAVES


def test_imports_point_to_the_left():
    assert offences(graph()) == []


def test_there_are_no_circles():
    modules = graph()
    order = list(TopologicalSorter(modules).static_order())  # raises CycleError on a circle
    assert set(modules) <= set(order)


@pytest.mark.parametrize(
    ("line", "place", "reason"),
    [
        ("from lpsphere.topology import SemiPruning", "optim/a.py", "it is not to the left"),
        ("from lpsphere.optim.lpsgd import LpSGD", "topology/a.py", "it is not to the left"),
        ("def f():\n    from ..optim import lpsgd", "sparse/a.py", None),
        ("def f():\n    from . import neurons", "geometry.py", "it is not to the left"),
        ("import lpsphere.geometry", "theory.py", None),
        ("import lpsphere.theory", "geometry.py", "it is not to the left"),
        ("from lpsphere import LpSGD", "training/a.py", "imports the package itself"),
        ("from lpsphere import data", "training/a.py", None),
        ("from lpsphere.data import load", "sparse/a.py", "only training and later"),
        ("from lpsphere import geometry", "models/a.py", "a leaf imports nothing"),
        ("import torch", "models/a.py", None),
    ],
)
def test_the_check_sees_every_way_to_import(tmp_path, line, place, reason):
    for name in ("__init__", "geometry", "neurons", "theory", "data/__init__", "optim/__init__", "optim/lpsgd"):
        path = tmp_path / "lpsphere" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    path = tmp_path / "lpsphere" / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    found = offences(graph(tmp_path))
    assert (found == []) if reason is None else (len(found) == 1 and reason in found[0])


def test_the_package_is_imported_without_what_few_need():
    late = ["numba", "scipy.sparse", "scipy.special", "scipy.optimize", "sklearn", "accelerate", "matplotlib"]
    late += ["onnx", "onnxscript", "optuna", "lightning", "transformers", "tensorboard"]
    late += ["lpsphere.integrations", "lpsphere.sparse", "lpsphere.training"]
    code = f"import sys, lpsphere as lp; print([name for name in {late} if name in sys.modules], 'compact' in dir(lp))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
