"""The course's own functions as a notebook can hold them."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Container
from types import ModuleType
from typing import Any


def solution(reference: Callable, given: Container[str]) -> str:
    """Source text of a function: without annotations, without the checks of arguments that only the helper module
    makes, and with the import statements for names that are not `given`."""
    text = textwrap.dedent(inspect.getsource(reference))
    [function] = ast.parse(text).body
    for argument in [*function.args.args, *function.args.kwonlyargs]:
        argument.annotation = None
    lines = text.splitlines()
    for statement in function.body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "").startswith("_check"):
            lines[statement.lineno - 1 : statement.end_lineno] = [None] * (statement.end_lineno - statement.lineno + 1)
    first = function.body[0].lineno - 1
    body = "\n".join(line for line in lines[first:] if line is not None)
    text = f"def {function.name}({ast.unparse(function.args)}):\n{body}"
    imports = _imports(text, inspect.getmodule(reference), given)
    return "\n".join(imports) + ("\n\n\n" if imports else "") + text


def names_in(node: ast.AST) -> list[ast.alias]:
    """What an import statement imports; nothing of another node."""
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def _imports(text: str, module: ModuleType, given: Container[str]) -> list[str]:
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name) and node.id not in given}
    own = sorted(name for name in names if name in vars(module) and _is_own(vars(module)[name], module))
    # Whatever else it takes stands at the top of its module, and is imported as it is there.
    found = []
    for node in ast.parse(inspect.getsource(module)).body:
        for alias in names_in(node):
            if (alias.asname or alias.name) in names:
                found.append(_import_line(node, alias, module.__package__))
    return sorted(found) + ([f"from {module.__name__} import {', '.join(own)}"] if own else [])


def _is_own(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def _import_line(node: ast.Import | ast.ImportFrom, alias: ast.alias, package: str) -> str:
    name = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
    if isinstance(node, ast.Import):
        return f"import {name}"
    parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return f"from {'.'.join([*parts, node.module] if node.module else parts)} import {name}"
