"""Notes the operations of a function once and goes through them anew, with other numbers in tensors of the same shapes.

For small tensors that takes half the time of the function itself under `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions  # it has no public name
from torch.fx.experimental.proxy_tensor import make_fx

Traced = Callable[..., Any]

MOST = 16  # sequences of operations that are kept
TRACED: dict[Hashable, Traced] = {}  # of this process, by all that they depend on, oldest first
RESHAPED = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.expand.default}
TRANSPOSED = torch.ops.aten.transpose.int
SOFTMAX = [torch.ops.aten._log_softmax, torch.ops.aten._log_softmax_backward_data]


def traced(key: Hashable, function: Callable[..., Any], *arguments: Any) -> Traced:
    """The operations of a function of tensors: those that were noted for this key, or new ones.

    Args:
        key: All that they depend on: what the function does, and the shapes, types and device of what it is given.
        function: The function; it does nothing but operations on tensors, the same ones whatever the numbers, and draws
            none.
        arguments: What it is given; numbers that do not come from there are noted as they are.
    """
    if key not in TRACED:
        if len(TRACED) == MOST:
            TRACED.pop(next(iter(TRACED)))
        TRACED[key] = _noted(function, arguments)
    return TRACED[key]


def _noted(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Traced:
    tensors = [each for each in torch.utils._pytree.tree_leaves(arguments) if isinstance(each, Tensor)]
    # A processor takes the logarithms of few numbers five times faster by their parts, a GPU by its own kernel.
    apart: Any = get_decompositions(SOFTMAX) if all(each.is_cpu for each in tensors) else {}
    module = make_fx(lambda given: function(*given), decomposition_table=apart)(arguments)  # which counts parameters
    _join_reshaped(module.graph)
    if not any(_schema(node) and _schema(node).is_mutable for node in module.graph.nodes):
        _join_repeated(module.graph)
        module.graph.eliminate_dead_code()
    module.recompile()
    return lambda *given: module(given)


def _join_reshaped(graph: fx.Graph) -> None:
    """Leaves out what gives a tensor the shape that it has, or transposes it twice; each costs as much as a sum."""
    for node in graph.nodes:
        source: Any = node.args[0] if node.args else None
        if node.target in RESHAPED and _shape(node) == _shape(source) is not None:
            _replace(node, source)
        elif node.target is TRANSPOSED is source.target and source.args[1:] == node.args[1:]:
            _replace(node, source.args[0])


def _join_repeated(graph: fx.Graph) -> None:
    """Leaves out operations that have been done before; none may change a tensor."""
    first: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if _schema(node):
            same = first.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
            if same is not node:
                _replace(node, same)


def _replace(node: fx.Node, by: fx.Node) -> None:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def _schema(node: fx.Node) -> Any:
    """What an operation of torch says of itself; None of what is no such operation."""
    return getattr(node.target, "_schema", None)


def _shape(node: Any) -> torch.Size | None:
    """The shape of a node's tensor, where it is known."""
    known = getattr(node, "meta", {}).get("tensor_meta")
    return getattr(known, "shape", None)
