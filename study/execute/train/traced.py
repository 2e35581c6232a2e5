"""Notes the operations of a function once and goes through them anew, with other numbers in tensors of the same shapes.

For small tensors that takes half the time of the function itself under `vmap`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from study.execute.train.uncompiled import Operations

Traced = Callable[..., Any]

MOST = 64  # sequences of operations that are kept
TRACED: dict[Hashable, Traced] = {}  # of this process, by all that they depend on, oldest first
RESHAPED = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.expand.default}
SHAPE = "shape"  # of a node's tensor, among what is known of the node
TRANSPOSED = torch.ops.aten.transpose.int


def _log_softmax(x: Tensor, dim: int, _: bool) -> Tensor:
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _log_softmax_backward(gradient: Tensor, output: Tensor, dim: int, _: torch.dtype) -> Tensor:
    return gradient - output.exp() * gradient.sum(dim, keepdim=True)


# A processor takes the logarithms of few numbers five times faster by their parts, a GPU by its own kernel.
IN_PARTS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten._log_softmax.default: _log_softmax,
    torch.ops.aten._log_softmax_backward_data.default: _log_softmax_backward,
}


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
    given = tree_leaves(arguments)
    noting = _Noting()
    for place, tensor in enumerate(given):
        noting.note(tensor, noting.graph.placeholder(f"given_{place}"))
    with noting:
        found = function(*arguments)
    graph = noting.graph
    graph.output(tree_map(noting.node_of, found))
    _join_reshaped(graph)
    if not any(_schema(node) and _schema(node).is_mutable for node in graph.nodes):
        _join_repeated(graph)
        graph.eliminate_dead_code()
    forward = fx.GraphModule(noting.constants, graph).forward
    return lambda *arguments: forward(*tree_leaves(arguments))


class _Noting(Operations):
    """Notes each operation as a node of a graph.

    What ``make_fx`` does, but that one begins with the import of torch's compiler, which takes a second.

    Attributes:
        graph: The nodes.
        constants: The tensors that operations read, and that none of them has made.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.graph, self.constants = fx.Graph(), nn.Module()
        self._nodes: dict[int, fx.Node] = {}  # by the id of its tensor
        self._held: list[Tensor] = []  # these tensors: the id of one that is gone may be another's

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in IN_PARTS and args[0].is_cpu and args[0].dtype in (torch.float32, torch.float64):
            with self:
                return IN_PARTS[func](*args)
        read = tree_map(self.node_of, (tuple(args), dict(kwargs or {})))
        found = func(*args, **(kwargs or {}))
        made = self.graph.call_function(func, *read)
        if isinstance(found, Tensor):
            self.note(found, made)
        elif isinstance(found, tuple | list):
            for place, part in enumerate(found):
                if isinstance(part, Tensor):
                    self.note(part, self.graph.call_function(operator.getitem, (made, place)))
        return found

    def note(self, tensor: Tensor, node: fx.Node) -> None:
        """Has a node stand for a tensor from now on."""
        node.meta[SHAPE] = tensor.shape
        self._nodes[id(tensor)] = node
        self._held.append(tensor)

    def node_of(self, value: Any) -> Any:
        """The node of a tensor; any other value as it is."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"constant_{len(self._held)}"
            setattr(self.constants, name, value)
            self.note(value, self.graph.get_attr(name))
        return self._nodes[id(value)]


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
    shape: torch.Size | None = getattr(node, "meta", {}).get(SHAPE)
    return shape
