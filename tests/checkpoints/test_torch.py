"""Parity with torch: checkpoints written by `torch.save` are read with the same values."""

import argparse
import warnings
from collections import OrderedDict

import numpy as np
import pytest

from esv_jax.checkpoints import CheckpointError, load_torch
from esv_jax.checkpoints.archives import read_torch

torch = pytest.importorskip("torch", reason="these compare with torch itself (extra 'parity')")

LAYOUTS = pytest.mark.parametrize("layout", ["zip", "legacy"])
KINDS = [
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
]


@pytest.fixture
def save(tmp_path):
    def save(value, layout="zip", **options):
        path = tmp_path / "file.pth"
        torch.save(value, path, _use_new_zipfile_serialization=layout == "zip", **options)
        return path

    return save


def as_numpy(tensor):
    """The array that torch itself returns; NumPy has no bfloat16."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def expect_same(found, entries):
    assert list(found) == list(entries)
    for name, tensor in entries.items():
        wanted = as_numpy(tensor)
        assert found[name].dtype == wanted.dtype and found[name].shape == wanted.shape, name
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)
        assert found[name].flags.c_contiguous and found[name].flags.writeable


def numbers(kind, *shape):
    values = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0))
    return (values * 0.37 if "float" in kind else values).to(getattr(torch, kind))


@LAYOUTS
@pytest.mark.parametrize("kind", KINDS)
def test_dtypes(kind, layout, save):
    entries = {"w": numbers(kind, 3, 4), "scalar": numbers(kind), "empty": numbers(kind, 0, 5)}
    expect_same(load_torch(save(entries, layout)), entries)


@LAYOUTS
def test_views(layout, save):
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    entries = {
        "transposed": base.transpose(1, 3),
        "permuted": base.permute(3, 1, 0, 2),
        "sliced": base[1, 1:, ::2, 1:4],
        "row": base[1, 2, 3],
        "one": base[1, 2, 3, 4],
        "expanded": base[0, 0, 0].expand(7, 5),
        "diagonal": base[0, 0].diagonal(),
        "channels last": base.contiguous(memory_format=torch.channels_last),
        "windows": base.flatten().unfold(0, 10, 3),
        "whole": base,
    }
    expect_same(load_torch(save(entries, layout)), entries)


@LAYOUTS
def test_a_module_with_shared_weights(layout, save):
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 3), torch.nn.Linear(4, 4)
    )
    net[3].weight = net[0].weight
    expect_same(load_torch(save(net.state_dict(), layout)), net.state_dict())


@LAYOUTS
def test_a_whole_training_state(layout, save):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    training = {
        "epoch": 7,
        "args": argparse.Namespace(lr=0.01, model="TRN"),
        "model": OrderedDict((f"module.{k}", v) for k, v in net.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "random": torch.get_rng_state(),
        "array": np.arange(3),
    }
    found = read_torch(save(training, layout))
    assert found.found_under == "model" and found.layout == layout
    expect_same(found.arrays, training["model"])
    assert set(found.ignored) == {repr(name) for name in training if name != "model"}


@LAYOUTS
def test_parameters_and_tensors_with_attributes(layout, save):
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    marked = torch.nn.Parameter(torch.ones(2))
    marked.note = "mine"
    tensor = torch.zeros(2)
    tensor.note = [1]
    entries = {"parameter": parameter, "marked": marked, "tensor": tensor}
    expect_same(load_torch(save({"state_dict": entries}, layout)), entries)


@LAYOUTS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(protocol, layout, save):
    entries = {"w": numbers("float32", 2, 3)}
    expect_same(load_torch(save(entries, layout, pickle_protocol=protocol)), entries)


def test_a_file_without_checksums(save):
    entries = {"w": numbers("float32", 2, 3)}
    torch.serialization.set_crc32_options(False)
    try:
        path = save(entries)
    finally:
        torch.serialization.set_crc32_options(True)
    expect_same(load_torch(path), entries)


@LAYOUTS
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        lambda: torch.ones(2, dtype=torch.complex64).conj(),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "quantised", "conjugated", "float8"],
)
def test_special_tensors_are_refused(make, layout, save):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save({"special": make(), "w": torch.ones(2)}, layout)
    with pytest.raises(
        CheckpointError, match=r"file\.pth: expected (a dense tensor|every storage)"
    ):
        load_torch(path)


@LAYOUTS
def test_a_whole_module_is_refused(layout, save):
    with pytest.raises(CheckpointError, match=r"whole object.*torch\.nn.*state_dict\(\)"):
        load_torch(save(torch.nn.Linear(2, 2), layout))


def test_torchscript_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pth")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_torch(tmp_path / "script.pth")
