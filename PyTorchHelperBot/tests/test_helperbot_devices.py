"""Nested batches: moving them and their size."""

import collections
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helperbot import move_to
from helperbot.devices import HostCopies, _MovedMemory, batch_size
from hypothesis import given, settings
from hypothesis import strategies as st


class Pair(NamedTuple):
    """A batch type."""

    x: torch.Tensor
    label: Any


@dataclasses.dataclass(frozen=True)
class Record:
    """A batch type that cannot be made with dataclasses.replace."""

    x: torch.Tensor
    name: str
    double: torch.Tensor = dataclasses.field(init=False)

    def __post_init__(self):
        if self.x.device.type == "meta":
            raise AssertionError("__post_init__ ran again")
        object.__setattr__(self, "double", self.x * 2)


def test_move_to_moves_tensors_in_any_nesting_and_keeps_the_types():
    # The meta device stands for one that is not the CPU.
    marker = object()
    defaults = collections.defaultdict(list, a=torch.ones(2))
    batch = {
        "pair": Pair(torch.ones(3), [torch.ones(1), "text"]),
        "record": Record(torch.ones(2), "r"),
        "tuple": (torch.ones(1), 3, None, marker),
        "defaults": defaults,
    }
    moved = move_to(batch, "meta")
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].x.device.type == "meta"
    assert moved["pair"].label[0].device.type == "meta"
    assert moved["pair"].label[1] == "text"
    assert isinstance(moved["record"], Record)
    assert moved["record"].x.device.type == moved["record"].double.device.type == "meta"
    assert moved["record"].name == "r"
    assert moved["tuple"][0].device.type == "meta"
    assert moved["tuple"][1:] == (3, None, marker)
    assert moved["defaults"]["a"].device.type == "meta"
    assert moved["defaults"].default_factory is list
    # What went in is unchanged.
    assert batch["pair"].x.device.type == batch["record"].x.device.type == "cpu"
    assert defaults["a"].device.type == "cpu"


nested = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.none(), st.just(torch.ones(2))),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), children, max_size=3),
        st.builds(Pair, st.just(torch.ones(1)), children),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(nested)
def test_move_to_keeps_every_structure(batch):
    def describe(value):
        if isinstance(value, torch.Tensor):
            return ("tensor", value.shape)
        if isinstance(value, dict):
            return {key: describe(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value), [describe(item) for item in value]
        return value

    def all_meta(value):
        if isinstance(value, torch.Tensor):
            return value.device.type == "meta"
        if isinstance(value, dict):
            return all(map(all_meta, value.values()))
        return all(map(all_meta, value)) if isinstance(value, (list, tuple)) else True

    moved = move_to(batch, "meta")
    assert describe(moved) == describe(batch)
    assert all_meta(moved)


class Block(NamedTuple):
    """A batch with some of its tensors in one block of memory."""

    inside: list[torch.Tensor]
    outside: torch.Tensor
    memory: torch.Tensor


def block_of(arrays, outside):
    """A batch with copies of arrays in its memory, 8 bytes apart or more."""
    starts = np.cumsum([0, *(-(-array.nbytes // 8) * 8 for array in arrays)])
    memory = torch.zeros(int(starts[-1]), dtype=torch.uint8)
    inside = [
        memory.numpy()[start : start + a.nbytes].view(a.dtype).reshape(a.shape) for start, a in zip(starts, arrays)
    ]
    for target, array in zip(inside, arrays):
        target[...] = array
    return Block([torch.from_numpy(target) for target in inside], outside, memory)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([np.uint8, np.bool_, np.int64, np.float32]),
            st.lists(st.integers(0, 4), min_size=1, max_size=3),
        ),
        max_size=5,
    )
)
def test_tensors_in_one_memory_are_moved_with_it_at_once(layouts):
    arrays = [np.arange(np.prod(shape)).reshape(shape).astype(dtype) for dtype, shape in layouts]
    batch = block_of(arrays, torch.ones(2))
    moved = move_to(batch, "meta")  # which stands for one that is not the CPU, but has no values
    assert [(t.shape, t.dtype, t.device.type) for t in moved.inside] == [
        (array.shape, torch.from_numpy(array).dtype, "meta") for array in arrays
    ]
    assert moved.outside.device.type == "meta"
    copies = []
    move = _MovedMemory(batch.memory, lambda tensor: copies.append(tensor.clone()) or copies[-1])
    for array, tensor in zip(arrays, batch.inside):
        np.testing.assert_array_equal(move(tensor), array)
        assert move(tensor).data_ptr() != tensor.data_ptr() or not array.size
    assert len(copies) == 1 + 2 * sum(not array.size for array in arrays)  # the memory, and what is nowhere
    torch.testing.assert_close(move(batch.outside), batch.outside)


@pytest.mark.parametrize("size, start, alone", [(24, 8, False), (24, 15, True), (23, 8, True)])
def test_unaligned_tensors_are_moved_one_by_one(size, start, alone):
    memory = torch.arange(size, dtype=torch.uint8)
    copies = []
    move = _MovedMemory(memory, lambda tensor: copies.append(tensor.clone()) or copies[-1])
    tensor = torch.from_numpy(memory.numpy()[start : start + 8].view(np.int32))
    assert move(tensor).numpy().tobytes() == bytes(range(start, start + 8))
    assert len(copies) == 1 + alone


def test_tensors_in_memory_on_the_device_stay_there():
    batch = block_of([np.arange(3)], torch.ones(2))
    moved = move_to(batch, "cpu")
    assert moved.inside[0].data_ptr() == batch.inside[0].data_ptr()


def test_batch_size_is_the_first_dimension_of_the_first_tensor():
    assert batch_size(torch.ones(4, 2)) == 4
    assert batch_size({"names": ["a"], "x": (torch.ones(3), torch.ones(5))}) == 3
    assert batch_size([1, Record(torch.ones(6), "r")]) == 6


@pytest.mark.parametrize("batch, reason", [(["a", 1], "no tensor"), (torch.tensor(1.0), "no dimensions")])
def test_batch_size_needs_a_tensor_with_dimensions(batch, reason):
    with pytest.raises(ValueError, match=reason):
        batch_size(batch)


def test_host_copies_do_not_change_with_what_they_are_copies_of():
    model = torch.nn.BatchNorm1d(3)
    log = [{"step": 1}]
    copies = HostCopies()
    copied = copies.copy({"model": model.state_dict(), "log": log, "transposed": torch.ones(2, 3).T, "none": None})
    copies.wait()
    model.weight.data.zero_()
    model.num_batches_tracked += 1
    log[0]["step"] = 2
    log.append({})
    assert copied["model"]["weight"].tolist() == [1, 1, 1] and copied["model"]["num_batches_tracked"].item() == 0
    versions = copied["model"]._metadata, model.state_dict()._metadata  # pylint: disable=protected-access
    assert versions[0] == versions[1]
    assert (copied["log"], copied["none"]) == ([{"step": 1}], None)
    assert copied["transposed"].stride() == (1, 3)
    assert not copied["model"]["weight"].requires_grad


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([torch.float32, torch.int64])), max_size=5)))
def test_host_copies_are_right_whatever_has_been_copied_before(shapes):
    copies = HostCopies()
    for number, values in enumerate(shapes):
        tensors = [torch.full((size, 2), number, dtype=dtype) for size, dtype in values]
        copied = copies.copy(tensors)
        copies.wait()
        for one, other in zip(copied, tensors, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)
            assert one.data_ptr() != other.data_ptr() or other.numel() == 0


def test_host_copies_keep_their_memory_for_the_next():
    copies = HostCopies()
    weights = torch.ones(1000)
    places = {copies.copy([weights, torch.ones(number)])[0].data_ptr() for number in range(1, 5)}
    assert len(places) == 1 and places != {weights.data_ptr()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_host_copies_of_cuda_are_pinned_and_of_the_moment():
    copies = HostCopies()
    values = torch.zeros(30_000_000, device="cuda")
    for number in range(5):
        values.fill_(number)
        copied = copies.copy([values, torch.tensor(number)])
        values.fill_(-1)  # behind the copy
        copies.wait()
        assert copied[0].is_pinned() and bool((copied[0] == number).all()) and copied[1].item() == number
