"""Makes tests/golden/tokens: the same three documents of token ids as numpy and others write them.
Run: python3 tests/golden/tokens_oracle.py"""

import json
import pathlib
import struct

import numpy

HERE = pathlib.Path(__file__).resolve().parent / "tokens"
DOCUMENTS = [[5, 50256, 0], [], [65535, 7]]


def safetensors(path, arrays):
    header, data = {}, b""
    for name, (kind, array) in arrays.items():
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


flat = numpy.concatenate([numpy.array(d, dtype=numpy.int64) for d in DOCUMENTS])
offsets = numpy.cumsum([0] + [len(d) for d in DOCUMENTS])
HERE.mkdir(exist_ok=True)
numpy.savez(HERE / "flat.npz", tokens=flat.astype("<u2"), offsets=offsets.astype("<i8"))
numpy.savez_compressed(HERE / "packed.npz", input_ids=flat.astype("<i4"), offsets=offsets.astype("<u8"))
numpy.save(HERE / "rows.npy", numpy.array([[1, 2, 3], [4, 5, 70000]], dtype="<u4"))
numpy.save(HERE / "one.npy", flat.astype("<i8"))
numpy.save(HERE / "real.npy", flat.astype("<f4"))
numpy.save(HERE / "negative.npy", numpy.array([1, -1], dtype="<i4"))
numpy.savez(HERE / "past.npz", tokens=flat.astype("<u2"), offsets=numpy.array([0, 9, 5], dtype="<i8"))
safetensors(HERE / "flat.safetensors", {"tokens": ("U16", flat.astype("<u2")), "offsets": ("I64", offsets.astype("<i8"))})
