#!/usr/bin/env python3
"""Turns PyTorch checkpoints (.bin, .pt, .pth: torch.save's zip files) into one safetensors file, running no code of theirs.

    torch_to_safetensors.py pytorch_model.bin model.safetensors
    torch_to_safetensors.py FOLDER FOLDER/model.safetensors      # pytorch_model.bin, or the shards of its index
    torch_to_safetensors.py checkpoint.pt out.safetensors --key model

A checkpoint is a pickle (what the tensors are called, their shapes and types) beside raw storages. The pickle is not loaded
but read, opcode by opcode: it can name only dicts, lists, numbers, texts and tensors; any other object stands as an inert mark, so
that nothing in the file is ever imported or called. Elements are copied as they are. Needs Python alone.
"""
import argparse
import json
import math
import mmap
import os
import pickletools
import struct
import sys
import zipfile
import zlib

# torch's storage classes: safetensors' name of the type, bytes of an element
STORAGES = {"FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2), "DoubleStorage": ("F64", 8),
            "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
            "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1)}
MOST_OPCODES = 50_000_000
MOST_DEPTH = 32
MOST_REPEATS = 4096  # of an expanded tensor's elements


class Refused(Exception):
    """The file is damaged, or not what this program reads."""


class Mark:
    """A class or function that the pickle names, or what it would have made: never imported, never called."""

    def __init__(self, name):
        self.name = name


class Storage:
    def __init__(self, kind, key, elements):
        self.kind, self.key, self.elements = kind, key, elements


class Tensor:
    def __init__(self, storage, offset, shape, stride):
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride


# ---- the pickle

def whole_numbers(value):
    return isinstance(value, tuple) and all(type(v) is int and v >= 0 for v in value)


def make_tensor(arguments):
    if len(arguments) < 4:
        raise Refused("a tensor lacks its storage, offset, shape or stride")
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0 or not whole_numbers(shape) \
            or not whole_numbers(stride) or len(shape) != len(stride):
        raise Refused("a tensor's storage, offset, shape or stride is not what torch writes")
    if math.prod(shape) > MOST_REPEATS * max(storage.elements, 1):
        raise Refused(f"a tensor repeats its {storage.elements} elements more than {MOST_REPEATS} times")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
    if math.prod(shape) > 0 and last >= storage.elements:
        raise Refused(f"a tensor reaches past the {storage.elements} elements of its storage {storage.key}")
    return Tensor(storage, offset, shape, stride)


def make(function, arguments):
    """What a call stands for, where it is one of the few that torch.save writes; else a mark."""
    name = function.name if isinstance(function, Mark) else ""
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        return make_tensor(arguments)
    if name == "torch._utils _rebuild_parameter" and arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    if name == "collections OrderedDict" and arguments == ():
        return {}
    if name == "torch Size" and len(arguments) == 1:
        return arguments[0]
    return Mark(name or "something")


def make_storage(identity):
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage" or not isinstance(identity[1], Mark):
        raise Refused("a storage is not named as torch names it")
    module, _, kind = identity[1].name.partition(" ")
    key, elements = identity[2], identity[4]
    if module != "torch" or kind not in STORAGES:
        raise Refused(f"storages of type {identity[1].name.replace(' ', '.')} are not known")
    if not isinstance(key, str) or not key.isalnum() or type(elements) is not int or elements < 0:
        raise Refused("a storage's key or size is not what torch writes")
    return Storage(kind, key, elements)


class Reader:
    """A machine with a stack and a memo, for the opcodes that data need."""

    PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "INT", "LONG", "FLOAT"}
    TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINSTRING",
             "SHORT_BINSTRING", "STRING"}

    def __init__(self):
        self.stack, self.memo, self.marks = [], {}, []

    def pop_mark(self):
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self, n):
        if n > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise Refused("the pickle takes more than it put")
        items = self.stack[len(self.stack) - n:]
        del self.stack[len(self.stack) - n:]
        return items

    def put_items(self, items):
        target = self.stack[-1]
        if len(items) % 2:
            raise Refused("a dict has a key without a value")
        for key, value in zip(items[::2], items[1::2]):
            if not isinstance(target, (dict, Mark)) or not isinstance(key, (str, bytes, int, float, bool, type(None), tuple)):
                raise Refused("the pickle fills what is no dict, or with a key that is no text or number")
            if isinstance(target, dict):
                target[key] = value

    def extend(self, items):
        if not isinstance(self.stack[-1], (list, Mark)):
            raise Refused("the pickle appends to what is no list")
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def collect(self, name):
        if name.startswith("EMPTY_"):
            kinds = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
            self.stack.append(kinds[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self.pop(int(name[-1]))))
        elif name in ("TUPLE", "LIST"):
            items = self.pop_mark()
            self.stack.append(tuple(items) if name == "TUPLE" else items)
        elif name == "DICT":
            items = self.pop_mark()
            self.stack.append({})
            self.put_items(items)
        elif name in ("SETITEM", "SETITEMS"):
            self.put_items(self.pop(2) if name == "SETITEM" else self.pop_mark())
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            self.extend(self.pop(1) if name == "APPEND" else self.pop_mark())
        else:
            return False
        return True

    def call(self, name, argument):
        if name == "GLOBAL":
            self.stack.append(Mark(argument))
        elif name == "STACK_GLOBAL":
            module, word = self.pop(2)
            self.stack.append(Mark(f"{module} {word}"))
        elif name == "BINPERSID":
            self.stack.append(make_storage(self.pop(1)[0]))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self.pop(2)
            if not isinstance(arguments, tuple):
                raise Refused("the pickle calls with what are no arguments")
            self.stack.append(make(function, arguments))
        elif name == "BUILD":
            self.pop(1)  # an object's attributes: data need none
        else:
            return False
        return True

    def remember(self, name, argument):
        if name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name == "POP":
            self.pop(1)
        elif name == "MARK":
            self.marks.append(len(self.stack))
        else:
            return name in ("PROTO", "FRAME")
        return True

    def run(self, data):
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            name = opcode.name
            if count > MOST_OPCODES:
                raise Refused("the pickle is too long")
            if name == "STOP":
                return self.pop(1)[0]
            if name in self.PLAIN:
                self.stack.append(self.PLAIN[name])
            elif name in self.NUMBERS or name in self.TEXTS:
                self.stack.append(argument)
            elif not (self.collect(name) or self.call(name, argument) or self.remember(name, argument)):
                raise Refused(f"the pickle uses {name}, which data do not need")
        raise Refused("the pickle has no end")


def read_pickle(data):
    try:
        return Reader().run(data)
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise Refused(f"the pickle is damaged: {error}") from None


# ---- the zip

class Checkpoint:
    """The mapped file: its pickled structure and its storages."""

    def __init__(self, path, checksums=True):
        self.path, self.checksums = path, checksums
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise Refused("the file is empty")
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.bytes[:4] != b"PK\x03\x04":
            raise Refused("it is no zip file (torch before 1.6 wrote others: load and save it once with a newer torch)")
        try:
            self.members = {m.filename: m for m in zipfile.ZipFile(path).infolist()}
        except (zipfile.BadZipFile, UnicodeDecodeError, ValueError, struct.error, NotImplementedError) as error:
            raise Refused(f"it is no sound zip file: {error}") from None
        pickles = [name for name in self.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("expected one member NAME/data.pkl")
        self.root = pickles[0][:-len("data.pkl")]
        order = self.members.get(self.root + "byteorder")
        if order is not None and bytes(self.member(order.filename)) != b"little":
            raise Refused("it was written on a big-endian machine")
        self.content = read_pickle(bytes(self.member(pickles[0])))

    def member(self, name):
        """The bytes of a stored member, where they lie."""
        found = self.members.get(name)
        if found is None:
            raise Refused(f"there is no member {name}")
        at = found.header_offset
        if found.compress_type != zipfile.ZIP_STORED or self.bytes[at:at + 4] != b"PK\x03\x04" or at + 30 > len(self.bytes):
            raise Refused(f"member {name} is packed or damaged: torch stores plainly")
        name_bytes, extra = struct.unpack("<HH", self.bytes[at + 26:at + 30])
        start = at + 30 + name_bytes + extra
        if start + found.file_size > len(self.bytes):
            raise Refused(f"member {name} is cut off")
        data = memoryview(self.bytes)[start:start + found.file_size]
        if self.checksums and zlib.crc32(data) != found.CRC:
            raise Refused(f"the bytes of member {name} do not match its checksum (--no-checksums takes them all the same)")
        return data

    def pieces(self, tensor):
        """The tensor's elements in C order, in pieces of bytes."""
        storage, n = tensor.storage, STORAGES[tensor.storage.kind][1]
        data = self.member(f"{self.root}data/{storage.key}")
        if len(data) != storage.elements * n:
            raise Refused(f"storage {storage.key} has {len(data)} bytes, expected {storage.elements} elements of {n}")
        flat = data.cast({1: "B", 2: "H", 4: "I", 8: "Q"}[n])
        count = math.prod(tensor.shape)
        if count == 0:
            return iter(())
        if is_contiguous(tensor):
            return iter((flat[tensor.offset:tensor.offset + count],))
        return strided(flat, tensor.offset, tensor.shape, tensor.stride)


def is_contiguous(tensor):
    step = 1
    for n, stride in zip(reversed(tensor.shape), reversed(tensor.stride)):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


def strided(flat, offset, shape, stride):
    n, step = shape[0], stride[0]
    if len(shape) > 1:
        for i in range(n):
            yield from strided(flat, offset + i * step, shape[1:], stride[1:])
    elif step == 0:
        yield flat[offset:offset + 1].tobytes() * n
    else:
        yield flat[offset:offset + (n - 1) * step + 1:step].tobytes()


# ---- names

def walk(value, prefix, found, skipped, depth=0):
    """Tensors of nested dicts and lists, names joined by dots."""
    if depth > MOST_DEPTH:
        raise Refused("dicts stand too deep in one another")
    if isinstance(value, Tensor):
        if prefix in found:
            raise Refused(f'two tensors have the name "{prefix}"')
        found[prefix] = value
    elif isinstance(value, dict) or isinstance(value, (list, tuple)) and any(isinstance(v, (Tensor, dict, list)) for v in value):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            walk(item, f"{prefix}.{key}" if prefix else str(key), found, skipped, depth + 1)
    else:
        skipped.append(prefix)


def tensors_of(checkpoint, key):
    content, found, skipped = checkpoint.content, {}, []
    for part in key.split(".") if key else []:
        if not isinstance(content, dict) or part not in content:
            names = ", ".join(map(str, content)) if isinstance(content, dict) else "nothing"
            raise Refused(f'there is no "{part}" of --key; there are: {names[:400]}')
        content = content[part]
    walk(content, "", found, skipped)
    if not found:
        raise Refused("it holds no tensors")
    return found, skipped


# ---- safetensors

def write(path, tensors):
    """tensors: name -> (checkpoint, tensor). Larger elements first, so that every tensor is aligned."""
    def size(name):
        return STORAGES[tensors[name][1].storage.kind][1]
    names = sorted(tensors, key=lambda name: (-size(name), name))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        tensor = tensors[name][1]
        end = at + math.prod(tensor.shape) * size(name)
        header[name] = {"dtype": STORAGES[tensor.storage.kind][0], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    part = path + ".part"
    try:
        with open(part, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                checkpoint, tensor = tensors[name]
                for piece in checkpoint.pieces(tensor):
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.unlink(part)


def sources(path):
    """The files of a folder: those that its index names, or pytorch_model.bin."""
    if not os.path.isdir(path):
        return [path]
    index = os.path.join(path, "pytorch_model.bin.index.json")
    if not os.path.exists(index):
        return [os.path.join(path, "pytorch_model.bin")]
    with open(index, encoding="utf-8") as file:
        names = sorted(set(json.load(file)["weight_map"].values()))
    if any(os.path.basename(name) != name for name in names):
        raise Refused(f"{index} names files elsewhere")
    return [os.path.join(path, name) for name in names]


def convert(source, target, key=None, log=print, checksums=True):
    tensors = {}
    for path in sources(source):
        try:
            checkpoint = Checkpoint(path, checksums)
            found, skipped = tensors_of(checkpoint, key)
        except (Refused, OSError) as error:
            raise Refused(f"{path}: {error}") from None
        twice = tensors.keys() & found.keys()
        if twice:
            raise Refused(f'{path}: tensor "{min(twice)}" stands in another file too')
        tensors.update((name, (checkpoint, tensor)) for name, tensor in found.items())
        if skipped:
            log(f"{path}: {len(skipped)} entries are no tensors and are left out ({', '.join(skipped)[:1000]})")
    write(target, tensors)
    log(f"{target}: {len(tensors)} tensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="a .bin, .pt or .pth file, or a folder with pytorch_model.bin")
    parser.add_argument("target", help="the safetensors file to write")
    parser.add_argument("--key", help="entry of the checkpoint to convert, parts joined by dots (model, state_dict)")
    parser.add_argument("--no-checksums", action="store_true", help="for files saved without them (set_crc32_options(False))")
    arguments = parser.parse_args()
    try:
        convert(arguments.source, arguments.target, arguments.key, checksums=not arguments.no_checksums)
    except (Refused, OSError, ValueError) as error:
        print(f"torch_to_safetensors: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
