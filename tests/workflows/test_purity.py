"""All runs of a workflow share its module (workers let it through the sandbox), so it holds no state."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import workflows

MODULES: Final = sorted(Path(workflows.__path__[0]).glob("**/*.py"))
CHANGES: Final = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "move_to_end", "pop",
    "popitem", "popleft", "remove", "setdefault", "sort", "update",
})  # fmt: skip


def shared_state(source: str) -> Iterator[str]:
    """Where code keeps what outlives a run: something that a module, a class or a function has is changed."""
    tree = ast.parse(source)
    shared = {target.id for statement in tree.body for target in _targets(statement) if isinstance(target, ast.Name)}
    shared |= {statement.name for statement in tree.body if isinstance(statement, ast.ClassDef)} | {"cls", "type"}
    for node in ast.walk(tree):
        for what in _kept_by(node, shared):
            yield f"line {getattr(node, 'lineno', 0)}: {what}"


def _kept_by(node: ast.AST, shared: set[str]) -> Iterator[str]:
    match node:
        case ast.ClassDef() if "Frozen" not in map(_root, node.bases):  # pydantic gives each its own default
            yield from (
                f"every instance of {node.name} shares what line {statement.lineno} makes"
                for statement in node.body
                if isinstance(statement, ast.Assign | ast.AnnAssign) and _is_changeable(statement.value)
            )
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            if any(_is_changeable(default) for default in [*node.args.defaults, *node.args.kw_defaults]):
                yield f"every call of {node.name} shares a default"
            if {"cache", "lru_cache"} & {part for one in node.decorator_list for part in _names_in(one)}:
                yield f"{node.name} remembers"
        case ast.Global():
            yield "global"
        case ast.Call(func=ast.Attribute(attr=attr, value=value)) if attr in CHANGES and _root(value) in shared:
            yield f"changes {_root(value)}"
        case ast.Call(func=ast.Name(id="next" | "setattr"), args=[first, *_]) if _root(first) in shared:
            yield f"changes {_root(first)}"
    yield from (
        f"changes {_root(target)}"
        for target in _targets(node)
        if not isinstance(target, ast.Name) and _root(target) in shared
    )


def _names_in(node: ast.expr) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            yield one.id
        elif isinstance(one, ast.Attribute):
            yield one.attr


def _targets(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Assign() | ast.Delete():
            return node.targets
        case ast.AnnAssign() | ast.AugAssign():
            return [node.target]
    return []


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_changeable(value: ast.expr | None) -> bool:
    kinds = ast.Call | ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp
    return isinstance(value, kinds)


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
        "NUMBERS = itertools.count()\ndef run():\n    return next(NUMBERS)",
        "class Order:\n    seen = deque()",
        "class Order:\n    seen = 0\n    def run(self):\n        Order.seen += 1",
        "class Order:\n    seen = 0\n    def run(self):\n        type(self).seen = 1",
        "class Order:\n    seen = 0\n    @classmethod\n    def run(cls):\n        cls.seen = 1",
        "@functools.lru_cache(maxsize=9)\ndef of(key):\n    return key",
        "def run(key, seen=[]):\n    seen.append(key)",
    ],
)
def test_state_is_found(line: str) -> None:
    assert list(shared_state(line))
