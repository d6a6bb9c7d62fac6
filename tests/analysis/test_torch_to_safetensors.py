"""Tests of analysis/torch_to_safetensors.py: checkpoints that torch wrote (tests/golden/torch_oracle.py), hostile and damaged ones."""

import io
import json
import pathlib
import pickle
import random
import struct
import sys
import tempfile
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "torch"
sys.path.insert(0, str(ROOT / "analysis"))
sys.dont_write_bytecode = True

import torch_to_safetensors as converter  # noqa: E402

FORMATS = {"F32": ("float32", "f"), "F16": ("float16", "e"), "BF16": ("bfloat16", "H"), "F64": ("float64", "d"), "I64": ("int64", "q"),
           "I32": ("int32", "i"), "U8": ("uint8", "B"), "BOOL": ("bool", "B")}


def read_safetensors(path):
    """name -> (dtype, shape, values)"""
    data = pathlib.Path(path).read_bytes()
    length, = struct.unpack("<Q", data[:8])
    header, found = json.loads(data[8:8 + length]), {}
    header.pop("__metadata__")
    for name, entry in header.items():
        kind, code = FORMATS[entry["dtype"]]
        begin, end = entry["data_offsets"]
        values = [v for v, in struct.iter_unpack("<" + code, data[8 + length + begin:8 + length + end])]
        if kind == "bfloat16":
            values = [struct.unpack("<f", struct.pack("<I", v << 16))[0] for v in values]
        found[name] = {"dtype": kind, "shape": entry["shape"], "values": [float(v) for v in values]}
    return found


class Attack:
    """What a hostile pickle does when it is loaded."""

    ran = []

    def __reduce__(self):
        return exec, ("import __main__; __main__.Attack.ran.append(1)",)


class Converter(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.out = str(self.folder / "out.safetensors")

    def convert(self, path, key=None):
        lines = []
        converter.convert(str(path), self.out, key, lines.append)
        found = read_safetensors(self.out)
        pathlib.Path(self.out).unlink()
        return found, lines

    def refused(self, path, part, key=None):
        with self.assertRaises(converter.Refused) as caught:
            self.convert(path, key)
        self.assertIn(part, str(caught.exception))
        self.assertFalse(pathlib.Path(self.out).exists() or pathlib.Path(self.out + ".part").exists())

    def archive(self, pickled, storages=None, **options):
        path = self.folder / "made.pt"
        with zipfile.ZipFile(path, "w", **options) as file:
            file.writestr("made/data.pkl", pickled)
            for key, data in (storages or {}).items():
                file.writestr(f"made/data/{key}", data)
        return path

    def test_what_torch_wrote(self):
        expected = json.loads((GOLDEN / "expected.json").read_text())
        self.assertEqual(self.convert(GOLDEN / "state.bin")[0], expected["state.bin"])
        self.assertEqual(self.convert(GOLDEN / "protocol4.pt")[0], expected["protocol4.pt"])
        self.assertEqual(self.convert(GOLDEN / "nested.pt", "model")[0], expected["nested.pt"])

    def test_nested_names(self):
        found, lines = self.convert(GOLDEN / "nested.pt")
        self.assertIn("model.weight", found)
        self.assertIn("optimizer.state.0.exp_avg", found)
        self.assertIn("settings", lines[0])  # a class of its own: left out, never imported
        self.refused(GOLDEN / "nested.pt", 'no "weights" of --key; there are: model, optimizer', "weights")
        self.refused(GOLDEN / "nested.pt", "no tensors", "note")

    def test_folders(self):
        (self.folder / "pytorch_model.bin").write_bytes((GOLDEN / "state.bin").read_bytes())
        self.assertIn("wte.weight", self.convert(self.folder)[0])
        (self.folder / "second.bin").write_bytes((GOLDEN / "protocol4.pt").read_bytes())
        index = self.folder / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": {"wte.weight": "pytorch_model.bin", "bias": "second.bin"}}))
        found = self.convert(self.folder)[0]
        self.assertTrue({"wte.weight", "bias"} <= found.keys())
        (self.folder / "second.bin").write_bytes((GOLDEN / "state.bin").read_bytes())
        self.refused(self.folder, "stands in another file too")
        index.write_text(json.dumps({"weight_map": {"x": "../pytorch_model.bin"}}))
        self.refused(self.folder, "names files elsewhere")

    def test_code_is_never_run(self):
        pickle.loads(pickle.dumps(Attack()))
        self.assertEqual(Attack.ran, [1])  # it would
        for content in ({"weights": Attack()}, Attack(), [Attack()], {"a": {"b": Attack()}}):
            for protocol in (0, 1, 2, 4):
                self.refused(self.archive(pickle.dumps(content, protocol)), "")
        self.refused(self.archive(b"cos\nsystem\n(S'true'\ntR."), "no tensors")
        self.refused(self.archive(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x81."), "no arguments")
        self.refused(self.archive(b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00trueo."), "OBJ")
        self.refused(self.archive(b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n."), "INST")
        self.refused(self.archive(b"\x80\x02K\x05\x82\x05."), "EXT1")
        self.assertEqual(Attack.ran, [1])

    def test_not_torch(self):
        self.refused(GOLDEN / "legacy.pt", "it is no zip file")
        for content, part in ((b"", "empty"), (b"PK\x03\x04 and no more", "no sound zip file")):
            path = self.folder / "file.pt"
            path.write_bytes(content)
            self.refused(path, part)
        path = self.folder / "file.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("other", "x")
        self.refused(path, "NAME/data.pkl")
        whole = self.archive(pickle.dumps({"a": 1}, 2))
        self.refused(whole, "no tensors")
        self.refused(self.archive(pickle.dumps({"a": 1}, 2), compression=zipfile.ZIP_DEFLATED), "torch stores plainly")

    def tensor(self, kind="FloatStorage", key="0", elements=4, offset=0, shape=(2, 2), stride=(2, 1), module="torch"):
        """The pickle {"w": tensor} as torch writes it, with any numbers."""
        def text(value):
            raw = value.encode()
            return b"X" + struct.pack("<I", len(raw)) + raw

        def number(value):
            return b"J" + struct.pack("<i", value)
        storage = b"(" + text("storage") + b"c" + f"{module}\n{kind}\n".encode() + text(key) + text("cpu") + number(elements) + b"tQ"
        numbers = [b"(" + b"".join(number(n) for n in values) + b"t" for values in (shape, stride)]
        return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers[0] + numbers[1] \
            + b"\x89}tRs."

    def test_false_tensors(self):
        data = struct.pack("<4f", 1, 2, 3, 4)
        found = self.convert(self.archive(self.tensor(), {"0": data}))[0]
        self.assertEqual(found["w"], {"dtype": "float32", "shape": [2, 2], "values": [1, 2, 3, 4]})
        for changes, part in (({"offset": 1}, "reaches past"), ({"stride": (4, 1)}, "reaches past"), ({"offset": -1}, "not what torch"),
                              ({"shape": (2, -2)}, "not what torch"), ({"stride": (1,)}, "not what torch"),
                              ({"elements": 5}, "expected 5 elements"), ({"elements": -4}, "not what torch"),
                              ({"kind": "DoubleStorage"}, "expected 4 elements of 8"), ({"kind": "QInt8Storage"}, "torch.QInt8Storage"),
                              ({"module": "os"}, "os.FloatStorage"), ({"key": "../x"}, "key"), ({"key": "1"}, "no member"),
                              ({"shape": (2 ** 30, 2 ** 30), "stride": (0, 0)}, "repeats its 4 elements")):
            self.refused(self.archive(self.tensor(**changes), {"0": data}), part)

    def test_damage(self):
        random.seed(3)
        whole = bytearray((GOLDEN / "nested.pt").read_bytes())
        path, kept = self.folder / "damaged.pt", 0
        for _ in range(1500):
            data = bytearray(whole)
            for _ in range(random.randint(1, 4)):
                data[random.randrange(len(data))] = random.randrange(256)
            path.write_bytes(data if random.random() < 0.8 else data[:random.randrange(len(data))])
            try:
                self.convert(path)
                kept += 1
            except converter.Refused:
                pass
        self.assertTrue(0 < kept < 300)  # what no checksum covers may change

    def test_checksums(self):
        data = bytearray((GOLDEN / "state.bin").read_bytes())
        at = data.index(struct.pack("<d", json.loads((GOLDEN / "expected.json").read_text())["state.bin"]["double"]["values"][0]))
        data[at] ^= 1
        path = self.folder / "flipped.pt"
        path.write_bytes(data)
        self.refused(path, "do not match its checksum")
        converter.convert(str(path), self.out, None, lambda line: None, checksums=False)
        self.assertIn("double", read_safetensors(self.out))

    def test_command(self):
        errors, sys.argv = io.StringIO(), ["x", str(self.folder / "none.pt"), self.out]
        stderr, sys.stderr = sys.stderr, errors
        try:
            self.assertEqual(converter.main(), 3)
        finally:
            sys.stderr = stderr
        self.assertIn("none.pt", errors.getvalue())


if __name__ == "__main__":
    unittest.main()
