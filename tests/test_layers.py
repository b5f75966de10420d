"""The law of imports: down only, and torch only where the command line does not pass."""

import ast
import functools
from pathlib import Path

import pytest

import ltcli

ROOT = Path(ltcli.__file__).parent
LEVELS = (
    ("cli",),
    ("report",),
    ("stages",),
    ("methods",),
    ("engine",),
    ("models", "data"),
    ("stats", "artifacts"),
    ("compute",),
    ("core",),
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
FILES = {
    "ltcli." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
}
FILES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}
HEAVY = {"torch", "torchvision", "timm"}
LIGHT_PACKAGES = ("cli", "stages", "methods", "core", "artifacts")
LIGHT_FILES = (
    "ltcli.compute.environment",
    "ltcli.compute.memory",
    "ltcli.compute.environment",
    "ltcli.compute.seeds",
    "ltcli.compute.transfer",
    "ltcli.data.class_table",
    "ltcli.data.published",
    "ltcli.data.reading",
    "ltcli.data.source_table",
    "ltcli.engine.schedules",
    "ltcli.models.backbones",
    "ltcli.models.embeddings",
    "ltcli.models.small_images",
    "ltcli.models.source",
    "ltcli.models.timm_networks",
    "ltcli.report.comparison_table",
    "ltcli.report.inputs",
    "ltcli.stats.head_classes",
    "ltcli.stats.pixel_statistics",
)


def _targets(node):
    """The modules that an import statement can load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def imports(source):
    """Every import in a file, also within functions and for type checkers only."""
    return [target for node in ast.walk(ast.parse(source)) for target in _targets(node)]


@functools.cache
def imports_when_loaded(source):
    """The imports that happen when the file is loaded."""
    found = []

    def visit(statements):
        for node in statements:
            found.extend(_targets(node))
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(node.orelse)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            else:
                for field in ("body", "orelse", "finalbody"):
                    visit(getattr(node, field, []))
                for handler in getattr(node, "handlers", []):
                    visit(handler.body)

    visit(ast.parse(source).body)
    return found


def breaches(module, source):
    """The imports of a file that point up, or to a neighbour of the same level."""
    own = module.split(".")[1]
    found = []
    for target in imports(source):
        parts = target.split(".")
        if parts[0] != "ltcli" or own not in LEVEL or len(parts) < 2 or parts[1] not in LEVEL:
            continue
        if parts[1] != own and LEVEL[parts[1]] <= LEVEL[own]:
            found.append(f"{module} imports {target}")
    return found


def _packages(module):
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def loaded_with(module):
    """Every module, ours and others', that loading one of ours loads, with the way to it."""
    ways, queue = {}, [(name, (name,)) for name in _packages(module)]
    while queue:
        name, way = queue.pop()
        if name in ways:
            continue
        ways[name] = way
        if name in FILES:
            for target in imports_when_loaded(FILES[name].read_text()):
                queue.extend((part, (*way, part)) for part in _packages(target))
    return ways


def test_every_package_has_its_level():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(LEVEL)
    assert len(FILES) > 50


def test_imports_point_down_only():
    found = [
        line
        for name, path in FILES.items()
        if "." in name
        for line in breaches(name, path.read_text())
    ]
    assert found == []


def test_core_imports_nothing_of_ours_but_itself_and_the_version():
    for name, path in FILES.items():
        if name.startswith("ltcli.core"):
            ours = {t for t in imports(path.read_text()) if t.split(".")[0] == "ltcli"}
            assert all(
                t in ("ltcli", "ltcli.__version__") or t.startswith("ltcli.core") for t in ours
            )


def test_imports_are_absolute():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), name


LIGHT = [
    name
    for name in FILES
    if name in LIGHT_FILES or (name.split(".")[1:2] and name.split(".")[1] in LIGHT_PACKAGES)
    if name not in ("ltcli.artifacts.store", "ltcli.stages.training")
]


@pytest.mark.parametrize("module", LIGHT)
def test_what_the_command_line_passes_loads_no_torch(module):
    ways = loaded_with(module)
    assert [" > ".join(ways[name]) for name in HEAVY & set(ways)] == []


@pytest.mark.parametrize("module", [n for n in LIGHT if not n.startswith("ltcli.core")])
def test_what_the_command_line_passes_loads_no_numpy_either(module):
    ways = loaded_with(module)
    assert [" > ".join(ways[name]) for name in {"numpy", "safetensors", "PIL"} & set(ways)] == []


def test_the_walk_sees_what_it_should():
    # Guards the tests above: a walk that finds nothing would pass them all.
    assert "torch" in loaded_with("ltcli.artifacts.store")
    assert "torch" in loaded_with("ltcli.engine.fit")
    assert "torch" not in imports_when_loaded("def f():\n    import torch\n")
    assert "torch" in imports("def f():\n    import torch\n")
    assert "torch" not in imports_when_loaded(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    )
    assert "torch" in imports_when_loaded("class A:\n    import torch\n")
    assert "torch" in imports_when_loaded("try:\n    import x\nexcept E:\n    import torch\n")
    up = "def f():\n    from ltcli.stages.run import run\n"
    assert breaches("ltcli.engine.fit", up) == [
        "ltcli.engine.fit imports ltcli.stages.run",
        "ltcli.engine.fit imports ltcli.stages.run.run",
    ]
    assert breaches("ltcli.engine.fit", "from ltcli import cli\n") == [
        "ltcli.engine.fit imports ltcli.cli"
    ]
    assert breaches("ltcli.engine.fit", "from ltcli.data import batches\n") == []
    assert breaches("ltcli.models.network", "from ltcli.data import batches\n") != []
    assert breaches("ltcli.data.batches", "from ltcli.engine import fit\n") != []
    assert breaches("ltcli.engine.fit", "from ltcli.engine import state\n") == []


def _forbidden(source):
    """What no file of the package may do: print, unpickle, evaluate text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        roots = {target.split(".")[0] for target in _targets(node)}
        found += sorted(roots & {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"})
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in ("print", "eval", "exec", "compile"):
            found.append(called.id)
        if isinstance(called, ast.Attribute) and called.attr == "load":
            owner = ast.unparse(called.value)
            found += [f"{owner}.load"] if owner in ("torch", "np", "numpy", "yaml") else []
            if owner == "torch" and "weights_only=True" in map(ast.unparse, node.keywords):
                found.remove("torch.load")
        if isinstance(called, ast.Attribute) and called.attr == "unsafe_load":
            found.append("unsafe_load")
    return found


@pytest.mark.parametrize("module", FILES)
def test_nothing_prints_unpickles_or_evaluates_text(module):
    assert _forbidden(FILES[module].read_text()) == []


def test_the_search_for_forbidden_calls_sees_them():
    for line in ("print(1)", "eval('1')", "exec('1')", "torch.load(f)", "import pickle"):
        assert len(_forbidden(line)) == 1, line
    assert _forbidden("torch.load(f, weights_only=True)") == []
    assert _forbidden("torch.load(f, weights_only=False)") == ["torch.load"]
    assert _forbidden("network.eval()\nmodel.load('x')\nre.compile('x')") == []


def test_only_split_dump_features_and_evaluate_name_the_test_set():
    # Training and selection cannot read test images that they cannot name.
    allowed = {"split.py", "dump_features.py", "evaluate.py"}
    found = set()
    for folder in ("stages", "methods", "engine", "models", "stats"):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                text = node.value if isinstance(node, ast.Constant) else None
                if isinstance(text, str) and (text == "test" or text.startswith("test.")):
                    found.add(path.name)
    assert found == allowed
