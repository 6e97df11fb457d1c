"""The house rules that a machine can hold: imports run one way, modules stay small, nothing of one machine."""

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

# Who may import whom: each floor those below it, and nobody on its own floor but itself.
FLOORS = (
    ("main",),
    ("cli",),
    ("api",),
    ("benchmark", "serving"),
    ("plan", "doctor", "report", "prediction"),
    ("exports",),
    ("training",),
    ("evaluation",),
    ("weights",),
    ("runs",),
    ("build",),
    ("data",),
    ("config",),
    ("bucket", "downloads", "models"),
    ("runtime",),
    ("atomic", "memory", "outputs"),
    ("errors", "regular_files", "text", "__init__"),
)
FLOOR_OF = {part: number for number, parts in enumerate(FLOORS) for part in parts}
# An address that others know; its code is a floor higher.
EXCEPTIONS = {"models/torch_weights.py": {"weights"}}


def modules(repo: Path):
    return sorted((repo / "ddrnet_jax").rglob("*.py"))


def part(repo: Path, path: Path) -> str:
    """The top-level part of the package that a module belongs to."""
    return path.relative_to(repo / "ddrnet_jax").parts[0].removesuffix(".py")


def imported_parts(path: Path):
    """The parts of our package that a module imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddrnet_jax":
            names = node.module.split(".")[1:]
            yield from names[:1] or (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("ddrnet_jax."))


def test_imports_run_one_way(repo):
    for path in modules(repo):
        own = part(repo, path)
        assert own in FLOOR_OF, f"{path} belongs to no floor"
        allowed = {other for other, floor in FLOOR_OF.items() if floor > FLOOR_OF[own]} | {own}
        allowed |= EXCEPTIONS.get(str(path.relative_to(repo / "ddrnet_jax")), set())
        wrong = set(imported_parts(path)) - allowed
        assert not wrong, f"{path} imports {wrong}"


def imported_packages(nodes) -> set[str]:
    """The packages that these nodes of a module import."""
    found = set()
    for node in nodes:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[0] for name in names}
    return found


def test_data_and_config_import_no_jax(repo):
    for path in modules(repo):
        if part(repo, path) in ("data", "config", *FLOORS[-2], *FLOORS[-1]) or path.name == "variants.py":
            assert not {"jax", "flax", "optax"} & imported_packages(ast.walk(ast.parse(path.read_text()))), path


def test_torch_is_imported_only_where_somebody_asks_for_it(repo):
    """It is no requirement of the package: the twin alone needs it at once, and nobody needs the twin at once."""
    importers = [p.name for p in modules(repo) if "torch" in imported_packages(ast.parse(p.read_text()).body)]
    assert importers == ["torch_twin.py"]
    for path in modules(repo):
        froms = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        assert not any("torch_twin" in name.split(".") for name in names), path


def test_every_module_says_what_it_is_for(repo):
    for path in modules(repo):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_public_functions_are_documented(repo):
    for path in modules(repo):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_public_functions_are_typed(repo):
    """So that no function of arrays escapes the test of shapes."""
    for path in modules(repo):
        for function, _ in public_functions(ast.parse(path.read_text())):
            untyped = [a.arg for a in parameters(function) if not a.annotation and a.arg not in ("self", "cls")]
            assert not untyped, f"{path}: {function.name} takes {', '.join(untyped)} of what type?"
            assert function.returns or function.name == "__init__", f"{path}: {function.name} returns what type?"


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]


_ARRAY = re.compile(r"\b(jax\.Array|np\.ndarray)\b")
_OF_MANY = re.compile(r"(dict|Callable)\[.*\]")  # arrays of every shape, by name
_SHAPE = re.compile(r"\b[uif]\d+\[[^\]]+\]|(?<!\w)\[[A-Za-z.*][^\]]*\]")  # u8[H,W,3]; [B,h,w,C] of any type


def public_functions(tree: ast.Module):
    """(function, all that documents it) of a module's public functions and its public classes' methods."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
                if method.name in ("__init__", "__call__"):
                    yield method, f"{ast.get_docstring(node)}\n{ast.get_docstring(method)}"
                elif not method.name.startswith("_"):
                    yield method, ast.get_docstring(method) or ""


def annotations(function: ast.FunctionDef):
    """What its parameters and its result are said to be."""
    for argument in parameters(function):
        if argument.annotation:
            yield ast.unparse(argument.annotation)
    if function.returns:
        yield ast.unparse(function.returns)


def test_public_functions_of_arrays_say_their_shapes(repo):
    count = 0
    for path in modules(repo):
        for function, text in public_functions(ast.parse(path.read_text())):
            if any(_ARRAY.search(_OF_MANY.sub("", annotation)) for annotation in annotations(function)):
                count += 1
                assert _SHAPE.search(text), f"{path}: {function.name} takes or returns arrays of what shape?"
    assert count > 80


# Stands alone beside the files that we export.
_STANDS_ALONE = "load_stablehlo.py"
_OPENING = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "imread", "imwrite", "fromfile", "tofile"}


def test_files_are_opened_in_one_place(repo):
    """Only regular ones, and text as UTF-8: see regular_files."""
    allowed = (
        "regular_files.read_text",
        "regular_files.read_bytes",
        "atomic.write_text",
        "split.open",
        "os.open",
        "ts.KvStore.open",
    )
    for path in modules(repo):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name not in ("regular_files.py", _STANDS_ALONE):
                name = ast.unparse(node.func)
                assert name in allowed or name.split(".")[-1] not in _OPENING, f"{path}:{node.lineno}: {name}"


def test_every_config_key_has_a_reader_and_a_comment(repo):
    source = (repo / "ddrnet_jax" / "config" / "schema.py").read_text()
    body = source[source.index("def base()") :]
    code = "\n".join(p.read_text() for p in modules(repo) if p.name not in ("schema.py", "checks.py"))
    for line in body.splitlines():
        if line.strip().startswith("config.") and "ConfigDict()" not in line:
            key = line.split("=")[0].strip()
            leaf = key.rsplit(".", 1)[1]
            # Groups of settings are handed on as arguments by their names.
            is_argument = re.search(rf"\b{leaf}: (int|float|bool|tuple|str)|\"{leaf}\"", code)
            assert f".{leaf}" in code or is_argument, f"{key} has no reader"
            assert "#" in line, f"{key} has no comment"


def test_the_diagram_is_of_todays_imports(repo):
    spec = importlib.util.spec_from_file_location("draw_architecture", repo / "docs" / "draw_architecture.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    assert draw.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert draw.page() == draw.PAGE.read_text(), "run: python docs/draw_architecture.py --write"


def test_the_drawing_of_the_floors_is_the_rule(repo):
    (drawing,) = re.findall(r"```text\n(.*?)```", (repo / "docs" / "architecture.md").read_text(), re.DOTALL)
    drawn = [tuple(line.split(", ")) for line in drawing.splitlines()]
    assert drawn == [tuple(part for part in floor if part != "__init__") for floor in FLOORS]


@pytest.mark.parametrize("word", ["TODO", "FIXME", "NotImplementedError"])
def test_nothing_is_left_unfinished(repo, word):
    for path in modules(repo):
        assert word not in path.read_text(), f"{path} has a {word}"


def test_no_image_of_a_data_set_is_in_the_repository(repo):
    if not (repo / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run(["git", "ls-files"], cwd=repo, capture_output=True, text=True, check=True).stdout.split()
    pictures = [f for f in files if Path(f).suffix.lower() in (".jpg", ".jpeg", ".png")]
    assert all(f.startswith("docs/") for f in pictures), pictures
