"""Values survive the trip, references are found, arrays are not copied, and what cannot be pickled is named."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import types

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from zray.values import serialization as s
from zray.values.custom_serializers import register_serializer, unregister_serializer
from zray.values.unpicklable import CHILDREN_MAX, children, find


class Ref:
    """Stands for ObjectRef: reports itself when pickled."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        s.on_ref(self)
        return restore, (self.name,)


def restore(name):
    ref = Ref(name)
    s.restored(ref)
    return ref


@pytest.fixture
def ref_type():
    before = s._ref_type
    s.set_ref_type(Ref)
    yield Ref
    s.set_ref_type(before)


def round_trip(value):
    return s.loads(s.to_bytes(s.dumps(value)))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
                   | st.sets(st.integers())),
    max_leaves=20)


@given(values)
@settings(deadline=None)
def test_plain_values_survive(value):
    back = round_trip(value)
    assert back == value and type(back) is type(value)


@given(st.lists(st.integers(0, 300), max_size=5), st.sampled_from(["u1", "<i8", "<f4", "?", "<c16"]))
@settings(deadline=None)
def test_arrays_survive_aligned_and_read_only(sizes, dtype):
    arrays = [np.arange(n).astype(dtype) for n in sizes]
    dumped = s.dumps(arrays)
    payload = s.to_bytes(dumped)
    assert len(payload) == dumped.nbytes == s.size(dumped)
    back = s.loads(payload)
    assert len(back) == len(arrays)
    for one, other in zip(arrays, back):
        assert one.dtype == other.dtype and np.array_equal(one, other)
        assert not other.flags.writeable
        if other.size:
            assert other.ctypes.data % s.BUFFER_ALIGN == 0


def test_loading_an_array_copies_nothing():
    """From the store.  An inline payload is copied to where its buffers are aligned."""
    payload = bytearray(s.to_bytes(s.dumps(np.arange(1000))))
    array = s.loads(memoryview(payload))
    assert np.shares_memory(array, np.frombuffer(payload, dtype="u1"))


def test_fortran_order_and_strides_survive():
    for array in (np.asfortranarray(np.arange(12).reshape(3, 4)), np.arange(20)[::3], np.array(5), np.zeros((0, 3))):
        back = round_trip(array)
        assert np.array_equal(back, array) and back.shape == array.shape


def test_object_arrays_may_hold_classes():
    class Local:
        pass

    back = round_trip(np.array([Local, 1], dtype=object))
    assert back[0].__name__ == "Local"


def test_large_bytes_travel_out_of_band_and_come_back_as_bytes():
    value = bytes(range(256)) * 512
    dumped = s.dumps(value)
    assert len(dumped.buffers) == 1 and len(dumped.pickle) < 100
    assert round_trip(value) == value and type(round_trip(value)) is bytes


def test_write_into_a_larger_target_fills_the_front():
    dumped = s.dumps([np.arange(5), np.arange(7)])
    target = bytearray(dumped.nbytes + 100)
    s.write_into(dumped, memoryview(target))
    assert bytes(target[: dumped.nbytes]) == s.to_bytes(dumped)
    assert not any(target[dumped.nbytes :])


def test_first_byte_tells_the_two_layouts_apart():
    assert s.to_bytes(s.dumps([1, 2]))[0] == 0x80
    assert s.to_bytes(s.dumps(np.arange(3)))[0] == 0x01


@given(st.data())
@settings(deadline=None)
def test_a_payload_cut_off_raises_a_named_error(data):
    payload = s.to_bytes(s.dumps([np.arange(10), b"x" * 70_000]))
    cut = data.draw(st.integers(1, len(payload) - 1))
    with pytest.raises((ValueError, Exception)) as caught:
        s.loads(payload[:cut])
    assert not isinstance(caught.value, (SystemError, MemoryError))


def test_none_is_a_constant():
    assert s.to_bytes(s.dumps(None)) == s.NONE
    assert s.loads(s.NONE) is None and s.loads(memoryview(s.NONE)) is None


# ---------------------------------------------------------------- references


def test_references_inside_values_are_collected_and_registered():
    refs = [Ref("a"), Ref("b")]
    dumped = s.dumps({"x": refs[0], "y": [refs[1], refs[0]]})
    assert dumped.refs == refs  # each once, though one is there twice
    found = []
    value = s.loads(s.to_bytes(dumped), found.append)
    assert [ref.name for ref in found] == ["a", "b"]
    assert value["x"] is value["y"][1]


def test_a_reference_pickled_by_hand_goes_to_the_hook():
    pinned = []
    s.set_out_of_band_hook(pinned.append)
    try:
        ref = Ref("a")
        pickle.dumps(ref)
        assert pinned == [ref]
        s.dumps([ref])
        assert pinned == [ref]  # zray's own values do not leak
    finally:
        s.set_out_of_band_hook(None)


def test_references_captured_by_a_function_go_to_the_hook():
    pinned = []
    s.set_out_of_band_hook(pinned.append)
    try:
        ref = Ref("a")
        s.dump_function(lambda: ref)
        assert pinned == [ref]
    finally:
        s.set_out_of_band_hook(None)


def test_a_dumps_inside_a_dumps_keeps_its_own_references():
    inner = []

    class Nested:
        def __reduce__(self):
            inner.append(s.dumps([Ref("inner")]).refs)
            return str, ()

    outer = s.dumps([Ref("first"), Nested(), Ref("last")])
    assert [ref.name for ref in outer.refs] == ["first", "last"]
    assert [[ref.name for ref in refs] for refs in inner] == [["inner"]]


def test_a_failed_dumps_leaves_no_collection_behind():
    with pytest.raises(TypeError):
        s.dumps([Ref("a"), threading.Lock()])
    assert s._context.refs is None


# ---------------------------------------------------------------- arguments


arguments = st.one_of(st.integers(), st.text(), st.lists(st.integers()), st.builds(Ref, st.text()))


@given(st.lists(arguments, max_size=5), st.dictionaries(st.text(min_size=1), arguments, max_size=4))
@settings(deadline=None)
def test_arguments_come_back_with_references_resolved(args, kwargs):
    before = s._ref_type
    s.set_ref_type(Ref)
    try:
        dumped, slots, deps = s.dump_args(tuple(args), kwargs)
    finally:
        s.set_ref_type(before)
    assert len(slots) == len(deps) and all(type(dep) is Ref for dep in deps)

    def resolved(value):
        return ("value of", value.name) if type(value) is Ref else value

    back_args, back_kwargs = s.load_args(s.to_bytes(dumped), slots, [resolved(dep) for dep in deps])
    assert list(back_args) == [resolved(value) for value in args]
    assert back_kwargs == {name: resolved(value) for name, value in kwargs.items()}


def test_nested_references_stay_references(ref_type):
    dumped, slots, deps = s.dump_args(([Ref("in a list")], Ref("top")), {})
    assert slots == [1] and [dep.name for dep in deps] == ["top"]
    assert [ref.name for ref in dumped.refs] == ["in a list"]


def test_no_arguments_are_a_constant():
    dumped, slots, deps = s.dump_args((), {})
    assert s.to_bytes(dumped) == s.EMPTY_ARGS and not slots and not deps
    assert s.load_args(s.EMPTY_ARGS) == ((), {})


# ---------------------------------------------------------------- what cannot be pickled


class Model:
    def __init__(self):
        self.layers = [{"w": 1}, {"lock": threading.Lock()}]


def train(model, steps=1):
    """A function whose argument names errors use."""


@pytest.mark.parametrize(("args", "kwargs", "words"), [
    ((Model(), 3), {}, "argument 'model' -> .layers[1]['lock'] (a _thread.lock)"),
    ((1,), {"steps": [threading.Lock()]}, "argument 'steps' -> [0] (a _thread.lock)"),
    ((threading.Lock(),), {}, "argument 'model' (a _thread.lock)"),
    ((1, 2, (x for x in ())), {}, "argument 2 (a generator)"),
])
def test_an_unpicklable_argument_is_named_by_its_path(args, kwargs, words):
    with pytest.raises(TypeError) as caught:
        s.dump_args(args, kwargs, train)
    assert words in str(caught.value)


def test_an_unpicklable_argument_of_a_constructor_is_named_as_the_caller_knows_it():
    class Trainer:
        def __init__(self, model, *, steps=1):
            pass

    for args, kwargs, name in [((threading.Lock(),), {}, "model"), ((1,), {"steps": threading.Lock()}, "steps")]:
        with pytest.raises(TypeError, match=rf"(?s)Trainer.__init__:.*argument '{name}' \(a _thread.lock\)"):
            s.dump_args(args, kwargs, Trainer)


def test_slots_properties_and_cycles_do_not_stop_the_search():
    class Slotted:
        __slots__ = ("me", "socket")

        def __init__(self):
            self.me = self
            self.socket = threading.Lock()

    culprit = find([Slotted()])
    assert culprit is not None and culprit.path == "[0].socket"


def test_the_search_is_bounded():
    wide = [object() for _ in range(CHILDREN_MAX * 3)]
    assert sum(1 for _ in children(wide)) == CHILDREN_MAX
    assert find({"fine": 1}) is None


def test_a_captured_variable_that_cannot_be_pickled_is_named():
    guard = threading.Lock()

    def task():
        return guard

    with pytest.raises(TypeError, match=r"closure variable 'guard' \(a _thread.lock\)"):
        s.dump_function(task)


def test_a_reduce_that_raises_anything_becomes_a_type_error():
    class Angry:
        def __reduce__(self):
            raise OSError("no")

    with pytest.raises(TypeError, match="OSError: no"):
        s.dumps([Angry()])


def test_recursion_too_deep_is_an_error_not_a_crash():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="Could not serialize"):
        s.dumps(deep)
    while deep:
        deep = deep[0]


# ---------------------------------------------------------------- functions and serializers


def test_the_same_function_has_the_same_key_and_an_edit_another():
    def make(n):
        def task():
            return n
        return task

    key, blob = s.dump_function(make(1))
    assert len(key) == 16 and s.dump_function(make(1))[0] == key
    assert s.dump_function(make(2))[0] != key
    assert s.load_function(blob)() == 1


def test_importable_functions_go_by_reference():
    import json

    assert len(s.dump_function(json.dumps)[1]) < 100


def test_a_module_that_workers_cannot_import_goes_by_value(tmp_path):
    module = types.ModuleType("zray_test_by_hand")
    module.__file__ = str(tmp_path / "zray_test_by_hand.py")
    exec("def task():\n    return helper() + 1\n\ndef helper():\n    return 41\n", module.__dict__)
    sys.modules["zray_test_by_hand"] = module
    try:
        blob = s.dump_function(module.task)[1]
    finally:
        del sys.modules["zray_test_by_hand"]
    assert s.load_function(blob)() == 42


def test_main_goes_by_value_into_another_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom zray.values import serialization as s\n"
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "sys.stdout.buffer.write(s.to_bytes(s.dumps(Point(7))))\n")
    payload = subprocess.run([sys.executable, str(script)], capture_output=True, check=True,
                             env={"PYTHONPATH": ":".join(sys.path)}).stdout
    assert s.loads(payload).x == 7


def test_a_huge_function_is_warned_about_by_the_name_of_what_it_captures():
    table = b"x" * (11 * 1024 * 1024)

    def lookup():
        return table

    with pytest.warns(UserWarning, match=r"closure variable 'table' is 11.0 MiB"):
        s.dump_function(lookup)


class Handle:
    def __init__(self, number):
        self.number = number
        self.lock = threading.Lock()


def test_registered_serializers_come_first_and_can_be_taken_back():
    register_serializer(Handle, serializer=lambda h: h.number, deserializer=Handle)
    try:
        assert round_trip([Handle(3)])[0].number == 3
    finally:
        unregister_serializer(Handle)
    with pytest.raises(TypeError):
        s.dumps([Handle(3)])


def test_importing_zray_stays_lean():
    heavy = ("numba", "numpy", "asyncio", "cloudpickle", "zmq")
    program = f"import sys, zray; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path)})
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("count", [1, 7, 100, 5000])
def test_arrays_of_inline_payloads_are_aligned(count):
    payload = s.to_bytes(s.dumps(np.ones(count)))
    found = s.loads(payload)
    assert found.ctypes.data % 64 == 0 and not found.flags.writeable and (found == 1).all()
