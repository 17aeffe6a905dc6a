"""The generation form leaves torch: its parts as ONNX graphs, of any batch size, give torch's numbers frame after frame."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from oniris_core.vae.model import Vae, VaeConfig
from oniris_core.vae.stepping import DecoderForm
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.outcomes import OutcomeConfig
from tests.test_world import data, make

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript")


class Flat(torch.nn.Module):
    """A method of a module as a function of tensors: what ONNX knows."""

    def __init__(self, module, method, arguments):
        super().__init__()
        self.module, self.method, self.structure = module, method, pytree.tree_structure(arguments)

    def forward(self, *tensors):
        arguments = pytree.tree_unflatten(list(tensors), self.structure)
        return tuple(pytree.tree_leaves(getattr(self.module, self.method)(*arguments)))


def exported(module, method, arguments):
    """A function of numpy-backed arguments that onnxruntime computes."""
    tensors = tuple(pytree.tree_leaves(arguments))
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in tensors),)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Flat(module, method, arguments).eval(), tensors, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    structure = pytree.tree_structure(getattr(module, method)(*arguments))

    def run(*arguments):
        values = [np.asarray(value) for value in pytree.tree_leaves(arguments)]
        assert len(values) == len(names)
        made = session.run(None, dict(zip(names, values, strict=True)))
        return pytree.tree_unflatten([torch.from_numpy(np.array(value)) for value in made], structure)

    return run


@torch.no_grad()
def test_the_parts_of_a_model_export_and_dream_the_same_frames():
    """Exported with two rollouts, run with three, through the window's slots twice over."""
    form = GenerationForm(make(window=3, mult=(1,), video=(True,), frame=(False,), outcomes=OutcomeConfig(2, 1.0, 3.0)))
    clean, x, sigma = data(B=2, T=1)
    state, told = form.begin(clean.x[:, 0], clean.sigma[:, 0]), form.tell(clean.actions[:, 0], clean.has_action[:, 0])
    ahead = form.look_ahead(state, told)
    frame = x[:, 0], sigma[:, 0]
    look_ahead, denoise, enter = (
        exported(form, "look_ahead", (state, told)), exported(form, "denoise", (state, ahead, *frame)),
        exported(form, "enter", (state, ahead, told, *frame)),
    )  # fmt: skip
    outcomes = exported(form, "outcomes", (state,))
    clean, x, sigma = data(B=3, T=7)
    ours = theirs = form.begin(clean.x[:, 0], clean.sigma[:, 0])
    for t in range(7):
        told, frame = form.tell(clean.actions[:, t], clean.has_action[:, t]), (x[:, t], sigma[:, t])
        ahead, other = form.look_ahead(ours, told), look_ahead(theirs, told)
        torch.testing.assert_close(
            denoise(theirs, other, *frame), form.denoise(ours, ahead, *frame), atol=1e-4, rtol=1e-4
        )
        ours, theirs = form.enter(ours, ahead, told, *frame), enter(theirs, other, told, *frame)
        for told, wanted in zip(outcomes(theirs), form.outcomes(ours), strict=True):
            torch.testing.assert_close(told, wanted, atol=1e-4, rtol=1e-4)
    assert theirs.position.tolist() == [7, 7, 7]


@torch.no_grad()
def test_the_decoder_exports():
    torch.manual_seed(0)
    vae = Vae(VaeConfig((2, 1), (2, 2), (8, 12), 1, 3, 4))
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    form = DecoderForm(vae.decoder)
    step = exported(form, "forward", (form.begin(2, 4, 4), torch.randn(2, 4, 4, 4)))
    ours = theirs = form.begin(3, 4, 4)
    for _ in range(3):
        z = torch.randn(3, 4, 4, 4)
        (ours, pixels), (theirs, others) = form(ours, z), step(theirs, z)
        torch.testing.assert_close(others, pixels, atol=1e-5, rtol=1e-5)
