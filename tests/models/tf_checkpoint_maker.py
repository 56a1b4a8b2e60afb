"""Writes TensorFlow checkpoints (tensor bundles) for tests, with several blocks and shared key prefixes."""

import numpy as np

MAGIC = bytes.fromhex("57fb808b247547db")
TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}


def varint(value):
    out = b""
    while True:
        out += bytes([(value & 0x7F) | (0x80 if value > 0x7F else 0)])
        value >>= 7
        if not value:
            return out


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(items):
    out, before = b"", b""
    for key, value in items:
        shared = 0
        while shared < min(len(before), len(key)) and before[shared] == key[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        before = key
    return out + bytes(4) + (1).to_bytes(4, "little")


def write_checkpoint(prefix, arrays, *, per_block=5):
    """Writes PREFIX.index and PREFIX.data-00000-of-00001."""
    header = field(1, 1) + field(3, field(1, 1))
    items, data = [(b"", header)], b""
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        shape = b"".join(field(2, field(1, n)) for n in array.shape)
        raw = array.tobytes()
        entry = field(1, TYPES[array.dtype.name]) + field(2, shape)
        entry += field(4, len(data)) + field(5, len(raw)) + varint(6 << 3 | 5) + bytes(4)
        items.append((name.encode(), entry))
        data += raw
    table, index = b"", []
    for start in range(0, len(items), per_block):
        part = block(items[start : start + per_block])
        last = items[min(start + per_block, len(items)) - 1][0]
        index.append((last, varint(len(table)) + varint(len(part))))
        table += part + bytes(5)
    handles = b""
    for part in (block([]), block(index)):
        handles += varint(len(table)) + varint(len(part))
        table += part + bytes(5)
    prefix.with_name(prefix.name + ".index").write_bytes(table + handles.ljust(40, b"\0") + MAGIC)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
