"""Where two trees differ, said in a line."""

from typing import Any, NamedTuple

import jax

_MOST = 5  # names of a node that are listed
_LONGEST = 60  # what is shown as it is


class Difference(NamedTuple):
    """The first place at which two trees have another structure, and the nodes there."""

    path: tuple[Any, ...]
    found: Any
    expected: Any

    def sides(self) -> tuple[str, str]:
        """What is expected there and what is found, in words."""
        kinds = type(self.found), type(self.expected)
        names, wanted = _names(self.found), _names(self.expected)
        found = described(self.found, first=[name for name in names if name not in wanted])
        if kinds[0] is kinds[1] and names == wanted:
            found = f"another {found}: their static data differ"
        return described(self.expected, first=[n for n in wanted if n not in names]), found


def difference(found: Any, expected: Any, path: tuple[Any, ...] = ()) -> Difference | None:
    """The first difference in structure; the arrays are not looked at."""
    parts, structure = _level(found)
    others, wanted = _level(expected)
    if structure != wanted:
        return Difference(path, found, expected)
    for (key, part), (_, other) in zip(parts, others, strict=True):
        if part is not found:  # which a leaf is of itself
            below = difference(part, other, (*path, *key))
            if below is not None:
                return below
    return None


def _level(tree: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """What a node holds, with its keys, and its structure without what lies below."""
    parts, structure = jax.tree.flatten_with_path(tree, is_leaf=lambda part: part is not tree)
    return parts, structure


def _names(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path, simple=True) for path, _ in _level(tree)[0]]


def place(path: tuple[Any, ...]) -> str:
    """A path as Python writes it."""
    return jax.tree_util.keystr(path) or "the root"


def described(tree: Any, first: list[str] | tuple[()] = ()) -> str:
    """A node or a leaf in a few words: its type, with the names ``first`` before its others."""
    parts, structure = _level(tree)
    if jax.tree_util.treedef_is_leaf(structure) or tree is None:
        if hasattr(tree, "dtype") and hasattr(tree, "shape"):
            return f"{tree.dtype}[{','.join(map(str, tree.shape))}]"
        text = repr(tree)
        return text if len(text) <= _LONGEST else f"a {type(tree).__name__}"
    kind = type(tree).__name__
    if is_variable(tree):
        return kind
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        return f"{kind} of {len(parts)}"
    names = [*first, *(name for name in _names(tree) if name not in first)]
    listed = ", ".join(map(repr, names[:_MOST])) + (", ..." if len(names) > _MOST else "")
    return f"{kind} of {listed}" if names else kind


def is_variable(tree: Any) -> bool:
    """Whether a node is a variable of Flax NNX, such as an `nnx.Param`, which Flax need not say."""
    return any(kind.__module__ == "flax.nnx.variablelib" for kind in type(tree).__mro__)
