"""A pretended GPU: tensors that lie elsewhere, with real values, computed on the CPU.

Its device is called `meta`, which PyTorch lets every machine have. As with a GPU, an operation on tensors of both
places fails, and so does `numpy()` of a tensor that is not on the CPU: code that moves too little is found without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
_CROSSING = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_")
"""These take tensors of both places on GPUs, too: indices may be on the CPU."""


class FarTensor(torch.Tensor):
    """Seems to lie elsewhere; `near` has its values."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> FarTensor:
        options: Any = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, near.size(), device=ELSEWHERE, **options)
        made.near = near
        return made

    def new_tensor(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """PyTorch makes it without asking `__torch_dispatch__`."""
        return FarTensor(self.near.new_tensor(*args, **kwargs))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Generator(torch.Generator):
    def __new__(cls, *_: object) -> _Generator:
        return super().__new__(cls)


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = {id(tensor.near): tensor for tensor in given if isinstance(tensor, FarTensor)}
    near = [tensor for tensor in given if not isinstance(tensor, FarTensor) and tensor.dim()]
    if far and near and func._schema.name not in _CROSSING:
        raise RuntimeError(f"{func._schema.name}: expected all tensors to be on the same device")
    wanted = kwargs.get("device")
    result = func(*tree_map(_near, args), **tree_map(_near, {**kwargs, **({"device": "cpu"} if wanted else {})}))
    if torch.device(wanted) != ELSEWHERE if wanted else not far:
        return result

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return far[id(leaf)] if id(leaf) in far else FarTensor(leaf)  # what was changed in place is the same tensor

    return tree_map(placed, result)


def _near(leaf: Any) -> Any:
    return leaf.near if isinstance(leaf, FarTensor) else leaf


@contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Let this process have the pretended GPU, and nothing else beside the CPU."""
    monkeypatch.setattr("torch.Generator", _Generator)
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr("torch.inference_mode", torch.no_grad)  # wrapped tensors cannot be detached in it
    with _Elsewhere():
        yield ELSEWHERE
