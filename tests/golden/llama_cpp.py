"""llama.cpp from its prebuilt libraries, and models as the GGUF files that it reads. For oracles and benches; needs numpy.

    npm install node-llama-cpp --ignore-scripts        # the libraries: node_modules/@node-llama-cpp/linux-x64/bins/linux-x64
"""
import ctypes
import pathlib
import struct
import time

import numpy as np

# ---- GGUF ---------------------------------------------------------------------------------------

F32, BF16 = 0, 30


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def value(v):
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    return struct.pack("<I", 8) + text(v)


def stored(w, kind):
    """Bytes of a tensor: vectors stay in float32, as llama.cpp wants them."""
    w = np.ascontiguousarray(w, np.float32)
    if kind == F32 or w.ndim == 1:
        return w.tobytes()
    bits = w.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()


def write_gguf(path, keys, weights, kind=F32):
    """weights: name -> array; kind: of matrices."""
    info, at = b"", 0
    for name, w in weights.items():
        at += -at % 32
        of = kind if w.ndim > 1 else F32
        info += text(name) + struct.pack("<I", w.ndim) + struct.pack(f"<{w.ndim}Q", *reversed(w.shape)) + struct.pack("<IQ", of, at)
        at += w.size * (4 if of == F32 else 2)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(keys)) + b"".join(text(k) + value(v) for k, v in keys.items()) + info
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % 32))
        for w in weights.values():
            raw = stored(w, kind)
            file.write(raw + b"\0" * (-len(raw) % 32))


# ---- llama.cpp ----------------------------------------------------------------------------------


class Batch(ctypes.Structure):
    _fields_ = [("n", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq", ctypes.POINTER(ctypes.c_int32)), ("seq", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
                ("logits", ctypes.POINTER(ctypes.c_int8))]


class Bytes(ctypes.Structure):
    """A parameter struct whose fields differ between releases: kept as the library's defaults, changed in place."""
    _fields_ = [("word", ctypes.c_int32 * 64)]


class Library:
    def __init__(self, folder):
        folder = pathlib.Path(folder)
        for name in ("libggml-base.so", "libggml.so", "libllama.so"):
            found = next(folder.glob(name.replace(".so", ".*so")))  # some releases carry their version
            lib = ctypes.CDLL(str(found), ctypes.RTLD_GLOBAL)
            if name == "libggml.so":
                lib.ggml_backend_load_all_from_path(str(folder).encode())
        self.lib = lib
        for name, result, arguments in (("llama_model_default_params", Bytes, []), ("llama_context_default_params", Bytes, []),
                                        ("llama_model_load_from_file", ctypes.c_void_p, [ctypes.c_char_p, Bytes]),
                                        ("llama_init_from_model", ctypes.c_void_p, [ctypes.c_void_p, Bytes]),
                                        ("llama_decode", ctypes.c_int32, [ctypes.c_void_p, Batch]),
                                        ("llama_set_n_threads", None, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]),
                                        ("llama_synchronize", None, [ctypes.c_void_p]), ("llama_free", None, [ctypes.c_void_p]),
                                        ("llama_batch_init", Batch, [ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
                                        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_int32])):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()

    def load(self, path):
        model = self.lib.llama_model_load_from_file(str(path).encode(), self.lib.llama_model_default_params())
        assert model, f"llama.cpp does not take {path}"
        return model

    def batch(self, ids, wanted):
        """One window; wanted(i): whether logits of position i are made."""
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        batch.n = len(ids)
        for i, t in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq[i], batch.seq[i][0], batch.logits[i] = int(t), i, 1, 0, wanted(i)
        return batch

    def logits(self, path, ids, vocabulary):
        """Of all positions, with keys and values in F32 and no flash attention."""
        params = self.lib.llama_context_default_params()
        word = list(params.word)
        unset = next(i for i in range(60) if word[i:i + 4] == [-1] * 4)  # rope scaling, pooling, attention, flash attention
        params.word[unset + 3] = 0
        cache = next(i for i in range(unset + 4, 60) if word[i:i + 2] == [1, 1])  # types of keys and values: F16
        params.word[cache] = params.word[cache + 1] = 0  # F32
        params.word[0], params.word[1], params.word[2] = 256, 256, 256
        context = self.lib.llama_init_from_model(self.load(path), params)
        assert self.lib.llama_decode(context, self.batch(ids, lambda i: 1)) == 0
        return np.array([self.lib.llama_get_logits_ith(context, i)[:vocabulary] for i in range(len(ids))], dtype=np.float64)

    def seconds(self, model, ids, threads):
        """How long a new window takes as its defaults are, with the last position's logits alone."""
        params = self.lib.llama_context_default_params()
        params.word[0], params.word[1], params.word[2] = len(ids), len(ids), len(ids)  # context, batch, physical batch
        context = self.lib.llama_init_from_model(model, params)
        self.lib.llama_set_n_threads(context, threads, threads)
        batch = self.batch(ids, lambda i: i + 1 == len(ids))
        start = time.perf_counter()
        assert self.lib.llama_decode(context, batch) == 0
        self.lib.llama_synchronize(context)
        taken = time.perf_counter() - start
        self.lib.llama_free(context)
        return taken
