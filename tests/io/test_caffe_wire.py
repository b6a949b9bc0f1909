"""The wire format and the binary reader: bytes written by hand, by protobuf's own library, and hostile ones."""

import struct

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import protobuf
from preimage.io.caffe import Message
from preimage.io.caffe.wire.binary import decode, encode
from preimage.io.caffe.wire.schema import message_fields
from preimage.io.caffe.wire.schema_rows import ENUMS, FORKS, MESSAGES


@pytest.mark.parametrize(("value", "data"), [(0, b"\x00"), (1, b"\x01"), (300, b"\xac\x02"), (-1, b"\xff" * 9 + b"\x01")])
def test_varints_by_hand(value: int, data: bytes) -> None:
    assert protobuf.varint(value) == data
    read, end = protobuf.read_varint(memoryview(data), 0, len(data))
    assert (protobuf.signed(read, 64), end) == (value, len(data))


def test_message_by_hand() -> None:
    # name (1) = "n", layer (100) = { name "c", type "Convolution", convolution_param (106) = { num_output 3, kernel_size 5, 2 } }
    conv = b"\x08\x03" + b"\x20\x05" + b"\x20\x02"
    layer = b"\x0a\x01c" + b"\x12\x0bConvolution" + b"\xd2\x06" + bytes([len(conv)]) + conv
    net = decode("NetParameter", b"\x0a\x01n" + b"\xa2\x06" + bytes([len(layer)]) + layer)
    assert net.name == "n"
    assert net.layer[0].convolution_param.num_output == 3
    assert list(net.layer[0].convolution_param.kernel_size) == [5, 2]
    assert net.layer[0].convolution_param.group == 1
    assert not net.layer[0].convolution_param.has("group")


def test_repeated_numbers_packed_or_not_are_the_same() -> None:
    values = np.array([1.5, -2.0, 3.25], np.float32)
    packed = b"\x2a\x0c" + values.tobytes()
    loose = b"".join(b"\x2d" + struct.pack("<f", v) for v in values)
    mixed = loose[:5] + b"\x2a\x08" + values[1:].tobytes()
    for data in (packed, loose, mixed):
        assert np.array_equal(decode("BlobProto", data).data, values)
    shape = decode("BlobShape", b"\x0a\x02\x03\x04" + b"\x08\x05")
    assert list(shape.dim) == [3, 4, 5]


def test_unpacked_floats_are_read_in_one_step() -> None:
    values = np.arange(200_000, dtype=np.float32)
    rows = np.empty((len(values), 5), np.uint8)
    rows[:, 0] = 0x2D
    rows[:, 1:] = values.view(np.uint8).reshape(-1, 4)
    blob = decode("BlobProto", rows.tobytes() + b"\x08\x07")
    assert np.array_equal(blob.data, values)
    assert blob.num == 7


def test_unknown_fields_are_kept() -> None:
    data = b"\x0a\x01n" + b"\xfa\x3f\x03abc"  # field 1023 is no field of NetParameter
    net = decode("NetParameter", data)
    assert net.unknown == b"\xfa\x3f\x03abc"
    assert encode(net) == data


def test_a_singular_field_twice_takes_the_last_and_merges_messages() -> None:
    first, second = Message("NetState", level=1, stage=["a"]), Message("NetState", level=2, stage=["b"])
    data = b"".join(b"\x32" + protobuf.varint(len(encode(m))) + encode(m) for m in (first, second))
    state = decode("NetParameter", data).state
    assert (state.level, list(state.stage)) == (2, ["a", "b"])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x0a\x05ab", "announces 5 bytes, only 2 are left"),
        (b"\x0a", "cut off"),
        (b"\xff" * 11, "longer than 10 bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x01", "field number 0"),
        (b"\x08\x01", "name at byte 0 has wire type 0"),
        (b"\xa2\x06\xff\xff\xff\xff\x0f", "announces 4294967295 bytes"),
    ],
)
def test_broken_bytes_name_the_place(data: bytes, text: str) -> None:
    with pytest.raises(FileFormatError, match=text):
        decode("NetParameter", data)


def test_floats_that_are_no_whole_number() -> None:
    with pytest.raises(FileFormatError, match="no whole number of 4-byte"):
        decode("BlobProto", b"\x2a\x05abcde")


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(FileFormatError, match="more than 4000000 fields"):
        decode("BlobShape", b"\x0a\x80\x92\xf4\x01" + b"\x01" * 4_000_000)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(FileFormatError, match="outside 0"):
        Message("PoolingParameter", kernel_size=-1)
    with pytest.raises(FileFormatError, match="has no field"):
        Message("PoolingParameter", kernel=1)
    with pytest.raises(FileFormatError, match="is no string"):
        Message("NetParameter", name=3)


def test_against_protobufs_own_library() -> None:
    """Messages of our schema, filled at random, as protobuf itself writes and reads them."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto2")
    kinds = {"int32": 5, "int64": 3, "uint32": 13, "float": 2, "double": 1, "bool": 8, "string": 9, "bytes": 12}
    for name, words in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for word, number in words.items():
            enum.value.add(name=f"{name}_{word}", number=number)
    for name in MESSAGES:
        message = file.message_type.add(name=name)
        for field in message_fields(name).values():
            row = message.field.add(name=field.name, number=field.number, label=3 if field.repeated else 1)
            if field.kind in kinds:
                row.type = kinds[field.kind]
            else:
                row.type, row.type_name = (14 if field.kind == "enum" else 11), f".t.{field.type}"
            row.options.packed = field.repeated and name in ("BlobProto", "BlobShape") and field.kind in kinds
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    rng = np.random.default_rng(5)

    def value(kind: str, type_name: str) -> object:
        ranges = {"int32": (-(1 << 31), 1 << 31), "int64": (-(1 << 62), 1 << 62), "uint32": (0, 1 << 32)}
        if kind in ranges:
            return int(rng.integers(*ranges[kind]))
        if kind == "enum":
            return int(rng.choice(list(ENUMS[type_name].values())))
        return {
            "float": float(np.float32(rng.standard_normal())),
            "double": float(rng.standard_normal()),
            "bool": bool(rng.integers(2)),
            "string": "na\u00efve",
            "bytes": b"\x00\xff",
        }[kind]

    for name in MESSAGES:
        theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))()
        ours = Message(name)
        for field in message_fields(name).values():
            if field.kind == "message" or rng.random() < 0.3:
                continue
            if field.repeated:
                values = [value(field.kind, field.type) for _ in range(3)]
                getattr(theirs, field.name).extend(values)
                setattr(ours, field.name, values)
            else:
                item = value(field.kind, field.type)
                setattr(theirs, field.name, item)
                setattr(ours, field.name, item)
        assert decode(name, theirs.SerializeToString()) == ours, name
        back = type(theirs)()
        back.ParseFromString(encode(ours))
        assert back == theirs, name


NUMBERS = [(layer, number) for layer, (_, _, numbers) in FORKS.items() for number in numbers]


@pytest.mark.parametrize(("layer", "number"), NUMBERS, ids=lambda value: str(value))
def test_the_parameters_of_forks_layers_are_read_by_the_numbers_that_the_forks_gave_them(layer: str, number: int) -> None:
    name, kind, numbers = FORKS[layer]
    segnet = (kind, number) == ("BNParameter", 45)
    field = message_fields("SegNetBNParameter" if segnet else kind)
    whole = next((f for f in field.values() if f.kind in ("uint32", "int32", "enum", "bool")), None)
    payload = (
        protobuf.key(whole.number, protobuf.VARINT) + b"\x01" if whole else protobuf.key(1, protobuf.FIXED32) + b"\0\0\x80\x3f"
    )
    head = protobuf.key(2, protobuf.BYTES) + bytes([len(layer)]) + layer.encode()
    data = protobuf.key(number, protobuf.BYTES) + bytes([len(payload)]) + payload + head
    message = decode("LayerParameter", data)
    set_name = whole.name if whole else next(iter(field))
    value = getattr(getattr(message, name), set_name)
    assert (int(value[0]) if isinstance(value, list) else int(value)) == 1
    written = number if segnet else numbers[0]
    assert encode(message) == head + protobuf.key(written, protobuf.BYTES) + bytes([len(payload)]) + payload
    # in a layer of another type the number means what BVLC says, or nothing
    other = decode("LayerParameter", data.replace(layer.encode(), b"x" * len(layer)))
    assert not other.has(name)


def test_what_does_not_fit_the_meaning_of_a_number_that_forks_use_otherwise_is_kept() -> None:
    transform = b"\x45\0\0\x80\x3f"  # 8: 1.0, a float in PSPNet, a message in SSD
    layer = decode("LayerParameter", b"\xa2\x06" + bytes([len(transform)]) + transform + b"\xda\x0c\x01\xff")
    assert layer.transform_param.unknown == transform
    assert encode(layer) == b"\xa2\x06" + bytes([len(transform)]) + transform + b"\xda\x0c\x01\xff"
    with pytest.raises(FileFormatError):
        decode("LayerParameter", b"\xd2\x06\x01\xff")  # convolution_param, whose number is nobody else's


def test_what_is_set_inside_a_message_that_is_not_set_stays():
    layer = Message("LayerParameter")
    inner = layer.convolution_param
    assert inner.num_output == 0
    assert not layer.has("convolution_param")  # reading sets nothing
    inner.weight_filler.type = "xavier"
    inner.kernel_size.extend([3, 5])
    layer.convolution_param.num_output = 7
    assert layer.convolution_param is inner
    assert (inner.num_output, inner.weight_filler.type, list(inner.kernel_size)) == (7, "xavier", [3, 5])
    assert decode("LayerParameter", encode(layer)) == layer


def test_messages_merge_as_protobufs_do():
    one, two = Message("LayerParameter", name="a", bottom=["x"]), Message("LayerParameter", type="ReLU", bottom=["y"])
    two.relu_param.negative_slope = 0.5
    one.relu_param.engine = "CAFFE"
    one.MergeFrom(two)
    assert (one.name, one.type, list(one.bottom)) == ("a", "ReLU", ["x", "y"])
    assert (one.relu_param.negative_slope, one.relu_param.word("engine")) == (0.5, "CAFFE")
    two.relu_param.negative_slope = 0.25  # a copy was taken
    assert one.relu_param.negative_slope == 0.5
    assert [field.name for field, _ in one.ListFields()] == ["name", "type", "bottom", "relu_param"]
    one.ClearField("bottom")
    assert not one.HasField("bottom")
    with pytest.raises(FileFormatError, match="NetParameter"):
        one.MergeFrom(Message("NetParameter"))


def test_repeated_fields_check_what_they_are_given():
    net = Message("NetParameter")
    net.layer.add(name="data").top.append("data")
    assert (net.layer[0].name, list(net.layer[0].top)) == ("data", ["data"])
    for values, words in ((net.layer[0].top, "no string"), (net.layer, "no LayerParameter")):
        for put in (values.append, lambda value, to=values: to.extend([value]), lambda value, to=values: to.insert(0, value)):
            with pytest.raises(FileFormatError, match=words):
                put(3)
    with pytest.raises(FileFormatError, match="append them"):
        net.layer[0].top.add()
