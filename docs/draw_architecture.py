"""The diagram of docs/architecture.md, from the imports in the code.

python docs/draw_architecture.py [--write]

Prints it as Mermaid, or writes it into the page. An arrow says "imports"; those that follow from others are left out.
"""

import argparse
import ast
import re
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "architecture.md"
_ADDRESS = Path("models") / "torch_weights.py"  # where others find what is in weights/
_BLOCK = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def parts(package: Path) -> dict[str, set[str]]:
    """{part of the package: the parts that it imports}; a part is a folder or a module beside them."""
    found: dict[str, set[str]] = {}
    for path in sorted(set(package.rglob("*.py")) - {package / _ADDRESS}):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own != "__init__":
            found.setdefault(own, set()).update(set(_imported(path)) - {own})
    return found


def _imported(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddrnet_jax":
            names = node.module.split(".")[1:]
            yield from names[:1] or (alias.name for alias in node.names)


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without the edges that lead where others lead too."""
    graph = {part: {other for other in others if other in graph} for part, others in graph.items()}

    def reachable(part: str) -> set[str]:
        return graph[part].union(*(reachable(other) for other in graph[part]))

    return {
        part: {o for o in others if not any(o in reachable(other) for other in others - {o})}
        for part, others in graph.items()
    }


def mermaid(graph: dict[str, set[str]]) -> str:
    """The graph as a Mermaid block."""
    lines = [f"    {part} --> {other}" for part, others in sorted(graph.items()) for other in sorted(others)]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def page() -> str:
    """docs/architecture.md with the diagram of today's code."""
    return _BLOCK.sub(lambda _: mermaid(reduced(parts(REPO / "ddrnet_jax"))), PAGE.read_text())


def main() -> None:
    """Print the diagram, or bring the page up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/architecture.md")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(mermaid(reduced(parts(REPO / "ddrnet_jax"))))


if __name__ == "__main__":
    main()
