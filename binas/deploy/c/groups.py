"""Which nodes run in one pass over the pixels, and where their values lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from binas.deploy.graph import INPUT, Graph, Node

FOLLOWERS = {"line", "unary", "prelu", "clamp", "binary", "binary_constant", "where", "step", "threshold"}
"""What is computed for each number by itself."""


@dataclass
class Group:
    """A node that needs more than one number of its input, and what follows it number by number."""

    number: int
    shape: tuple[int, ...]
    root: Node | None
    followers: list[Node] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return [*([] if self.root is None else [self.root]), *self.followers]


def grouped(graph: Graph) -> list[Group]:
    """The groups in the order in which they run; each node is in one."""
    groups: list[Group] = []
    place: dict[str, int] = {INPUT: -1}
    for node in graph.nodes:
        latest = max((place[name] for name in node.inputs), default=-1)
        if node.op in FOLLOWERS:
            if latest < 0 or groups[latest].shape != node.shape or _is_view(groups[latest]):
                groups.append(Group(len(groups), node.shape, None))
                latest = len(groups) - 1
            groups[latest].followers.append(node)
            place[node.name] = latest
        else:
            groups.append(Group(len(groups), node.shape, node))
            place[node.name] = len(groups) - 1
    return groups


def _is_view(group: Group) -> bool:
    return group.root is not None and group.root.op in ("view", "constant")


@dataclass
class Block:
    """Bytes that a value needs while groups `born` to `dies` run."""

    name: str
    size: int
    born: int
    dies: int
    offset: int = 0


ALIGNMENT = 64


def placed(blocks: list[Block]) -> int:
    """Gives each block an offset in one arena; blocks that live at the same time do not overlap.

    Returns:
        bytes of the arena.
    """
    done: list[Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.born)):
        block.size = -(-block.size // ALIGNMENT) * ALIGNMENT
        beside = sorted(
            (other for other in done if other.born <= block.dies and block.born <= other.dies),
            key=lambda other: other.offset,
        )
        offset = 0
        for other in beside:
            if offset + block.size <= other.offset:
                break
            offset = max(offset, other.offset + other.size)
        block.offset = offset
        done.append(block)
    return max((block.offset + block.size for block in blocks), default=ALIGNMENT)
