"""Damages a file in one stated way: damage.py HOW FILE [ARGUMENTS]."""
import json
import random
import struct
import sys

how, path, *rest = sys.argv[1:]


def read():
    with open(path, "rb") as stream:
        return bytearray(stream.read())


def write(data):
    with open(path, "wb") as stream:
        stream.write(data)


def truncate(share):
    data = read()
    write(data[:int(len(data) * float(share))])


def set_bytes(offset, hexadecimal):
    data, new = read(), bytes.fromhex(hexadecimal)
    data[int(offset):int(offset) + len(new)] = new
    write(data)


def set_json(key, value):
    document = json.loads(read())
    document[key] = json.loads(value)
    write(json.dumps(document).encode())


def tensor(what):
    """A safetensors file whose header lies about one tensor, or whose data hold a NaN."""
    data = read()
    length, = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8:8 + length]), data[8 + length:]
    name = sorted(key for key in header if key.endswith("mlp.down_proj.weight"))[0]
    entry = header[name]
    if what == "shape":
        entry["shape"] = [entry["shape"][0] * 2, entry["shape"][1]]
    elif what == "name":
        header["model.layers.0.mlp.sideways_proj.weight"] = header.pop(name)
    elif what == "offsets":
        entry["data_offsets"] = [entry["data_offsets"][0], 1 << 60]
    elif what == "type":
        entry["dtype"] = "F8_E5M2"
    elif what == "nan":
        width = {"F32": 4, "F16": 2, "BF16": 2}[entry["dtype"]]
        first = entry["data_offsets"][0]
        body[first:first + width] = b"\xff" * width
    text = json.dumps(header).encode()
    write(struct.pack("<Q", len(text)) + text + body)


def h5_dataset(part):
    import h5py
    found = []
    with h5py.File(path) as stream:
        stream.visititems(lambda name, item: found.append(item.id.get_offset() + item.id.get_storage_size() // 2)
                          if isinstance(item, h5py.Dataset) and part in name and "checksums" not in name
                          and item.id.get_offset() is not None else None)
    return found[0]


def h5data(part):
    offset, data = h5_dataset(part), read()
    data[offset] ^= 0x10
    write(data)


def h5attr(name):
    import h5py
    with h5py.File(path, "r+") as stream:
        del stream.attrs[name]


def h5nan():
    """A NaN in the first site, and the checksum of its block made to fit."""
    import ctypes
    import h5py
    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_64bits.restype = ctypes.c_uint64
    with h5py.File(path) as stream:
        site = stream["sites"][sorted(stream["sites"])[0]]
        checksums = stream["checksums/sites"][sorted(stream["sites"])[0]]
        assert len(checksums) == 1, "expected a site of one block"
        first, size, at = site.id.get_offset(), site.id.get_storage_size(), checksums.id.get_offset()
    data = read()
    middle = first + size // 8 * 4
    data[middle:middle + 4] = b"\xff" * 4
    block = bytes(data[first:first + size])
    data[at:at + 8] = struct.pack("<Q", library.XXH3_64bits(block, ctypes.c_size_t(size)))
    write(data)


def tokens(number):
    """One more added token, whose id no model of the pair has."""
    document = json.loads(read())
    document.setdefault("added_tokens", []).append(
        {"id": int(number), "content": "<beyond>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True})
    write(json.dumps(document).encode())


def mutate(seed):
    """A few bytes changed, a stretch cut out, doubled or zeroed; small files and the first kilobytes more often."""
    draw = random.Random(f"{path.rsplit('/', 1)[-1]} {seed}")
    data = read()
    for _ in range(draw.randint(1, 4)):
        reach = len(data) if draw.random() < 0.4 else min(len(data), 4096)
        at, length = draw.randrange(reach), draw.randint(1, 64)
        kind = draw.randrange(5)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at:at + length] = bytes(draw.randrange(256) for _ in range(length))
        elif kind == 2:
            del data[at:at + length]
        elif kind == 3:
            data[at:at] = data[at:at + length]
        else:
            data[at:at + length] = b"\0" * length
    write(data)


{"truncate": truncate, "bytes": set_bytes, "json": set_json, "tensor": tensor, "h5data": h5data, "h5attr": h5attr,
 "h5nan": h5nan, "tokens": tokens, "random": mutate}[how](*rest)
