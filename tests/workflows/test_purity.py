"""All runs of a workflow share its module (workers let it through the sandbox), so it holds no state."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import workflows

MODULES: Final = sorted(Path(workflows.__path__[0]).glob("**/*.py"))
CHANGES: Final = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove",
    "setdefault", "sort", "update",
})  # fmt: skip


def shared_state(source: str) -> Iterator[str]:
    """Where code keeps something that outlives a run: a module's or a class's own value that is changed."""
    tree = ast.parse(source)
    shared = {target.id for statement in tree.body for target in _targets(statement) if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (
                f"line {statement.lineno}: every instance of {node.name} shares this"
                for statement in node.body
                if isinstance(statement, ast.Assign | ast.AnnAssign) and _is_changeable(statement.value)
            )
        elif isinstance(node, ast.Global):
            yield f"line {node.lineno}: global"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            if _root(node.func.value) in shared:
                yield f"line {node.lineno}: changes {_root(node.func.value)}"
        elif isinstance(node, ast.stmt):
            yield from (
                f"line {node.lineno}: changes {_root(target)}"
                for target in _targets(node)
                if not isinstance(target, ast.Name) and _root(target) in shared
            )


def _targets(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Assign() | ast.Delete():
            return node.targets
        case ast.AnnAssign() | ast.AugAssign():
            return [node.target]
    return []


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_changeable(value: ast.expr | None) -> bool:
    made = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in {"dict", "list", "set"}
    return made or isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_workflow_modules_hold_no_state(path: Path) -> None:
    assert list(shared_state(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "def run():\n    global SEEN\n    SEEN = 1",
        "SEEN = {}\ndef run(key):\n    SEEN[key] = 1",
        "SEEN = {}\ndef run(key):\n    del SEEN[key]",
        "SEEN: list = []\ndef run(key):\n    SEEN.append(key)",
        "SEEN = {}\ndef run(key):\n    SEEN['all'].append(key)",
        "class Order:\n    seen: list = []",
        "class Order:\n    seen = set()",
        "LIMITS = Limits()\ndef run():\n    LIMITS.most += 1",
    ],
)
def test_state_is_found(line: str) -> None:
    assert list(shared_state(line))
