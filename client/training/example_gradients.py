"""The gradient of every example by itself, layer by layer, as DP-SGD clips them.

One pass back gives the gradient at each layer's output; with the layer's input it gives every example's gradient of the
layer's weights (Goodfellow, "Efficient per-example gradient computations", arXiv 1510.01799, 2015). The rule of a layer
is Opacus' own, or one here that gives the same in less time. Opacus' wrapper of a network is not used: it adds Python
hooks to each layer's pass back, and sums the gradients of all weights, which nobody reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from moretta.shared.models.adversaries import cross_entropies

Gradients = dict[Tensor, Tensor]
"""[n, *shape] of parameters of one layer."""
Rule = Callable[[Any, Tensor, Tensor], Gradients]
"""A layer, its input [n, ...] and the gradient at its output [n, ...] -> gradients of its parameters."""
Losses = Callable[[Tensor, Tensor], Tensor]
"""Outputs of a network for rows [n, ...], and their targets [n, ...] -> one loss for each row, [n]."""


class ExampleGradients:
    """Gives the gradients of a network's loss, one for each example. After the `with` block hooks are gone.

    The loss of an example must depend on no other one. A layer may see an example as several rows one after another, as
    many of each: their gradients are added up.

    Raises:
        NotImplementedError: a layer whose statistics mix examples.
    """

    def __init__(self, network: nn.Module, losses: Losses = cross_entropies) -> None:
        self._network, self._parameters, self._losses = network, list(network.parameters()), losses
        self._rules = {layer: _rule(layer) for layer in network.modules() if [*layer.parameters(recurse=False)]}
        self._passed: list[tuple[nn.Module, Tensor, Tensor]] = []
        """Layers with parameters in the last pass, with their input and output."""
        self._hooks = [layer.register_forward_hook(self._note) for layer in self._rules]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def __call__(self, features: Tensor, labels: Tensor) -> list[Tensor]:
        """[n, *shape] of each parameter of the network, in its order, for features [n, ...]."""
        if not len(labels):
            return [parameter.new_zeros((0, *parameter.shape)) for parameter in self._parameters]
        loss = self._losses(self._network(features), labels).mean()
        passed, self._passed = self._passed, []
        at_outputs = torch.autograd.grad(loss, [output for _, _, output in passed])
        found: Gradients = {}
        with torch.no_grad():
            for (layer, inputs, _), at_output in zip(passed, at_outputs, strict=True):
                # The loss is a mean, and what is wanted is the gradient of each term
                for parameter, of_rows in self._rules[layer](layer, inputs, at_output * len(labels)).items():
                    each = of_rows
                    if len(of_rows) != len(labels):
                        each = of_rows.reshape(len(labels), -1, *of_rows.shape[1:]).sum(dim=1)
                    found[parameter] = found[parameter] + each if parameter in found else each
        return [found[parameter] for parameter in self._parameters]

    def _note(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._passed.append((layer, inputs[0].detach(), output))


def _rule(layer: nn.Module) -> Rule:
    """The rule of a layer; where Opacus has none either, torch.func finds the gradients."""
    if type(layer) is nn.Linear:
        return _linear
    if isinstance(layer, nn.GRU):
        return _one_by_one
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1 and not isinstance(layer.padding, str):
        return _convolution
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns of its own non-cryptographic generator on every import
        from opacus import GradSampleModule
        from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer

    GradSampleModule.validate(layer, strict=True)
    known = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if known is None:
        prepare_layer(layer)
    rule = known or ft_compute_per_sample_gradient
    return lambda layer, inputs, at_output: rule(layer, [inputs], at_output)


def _one_by_one(layer: nn.Module, inputs: Tensor, at_output: Tensor) -> Gradients:
    """Each example passes alone: Opacus has a cell in Python instead of torch's own, which takes longer than this."""
    parameters, found = list(layer.parameters()), list[tuple[Tensor, ...]]()
    for example, at_its_output in zip(torch.split(inputs, 1), torch.split(at_output, 1), strict=True):
        with torch.enable_grad():
            output = layer.forward(example)  # past the hooks, which would note it
        found.append(torch.autograd.grad(output, parameters, at_its_output))
    return {parameter: torch.stack([each[i] for each in found]) for i, parameter in enumerate(parameters)}


def _linear(layer: nn.Linear, inputs: Tensor, at_output: Tensor) -> Gradients:
    """An outer product each, of inputs [n, i]."""
    found: Gradients = {layer.weight: torch.bmm(at_output.unsqueeze(2), inputs.unsqueeze(1))}
    return found if layer.bias is None else {**found, layer.bias: at_output}


def _convolution(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, at_output: Tensor) -> Gradients:
    """One matrix product each, of the gradient at every place with what that place saw."""
    assert not isinstance(layer.padding, str)
    around = [side for each in reversed(layer.padding) for side in (each, each)]
    padded = (pad(inputs, around) if any(around) else inputs).contiguous()  # [n, channels, *size]
    count, channels, *along = padded.stride()
    taps = [stride * step for stride, step in zip(along, layer.dilation, strict=True)]
    steps = [stride * step for stride, step in zip(along, layer.stride, strict=True)]
    flat = at_output.flatten(2)  # [n, outputs, places]
    shape = (*padded.shape[:2], *layer.kernel_size, *at_output.shape[2:])
    seen = padded.as_strided(shape, (count, channels, *taps, *steps)).reshape(len(padded), -1, flat.shape[2])
    each = torch.bmm(flat, seen.mT).view(len(padded), *layer.weight.shape)  # seen: [n, channels x taps, places]
    found: Gradients = {layer.weight: each}
    return found if layer.bias is None else {**found, layer.bias: flat.sum(dim=2)}
