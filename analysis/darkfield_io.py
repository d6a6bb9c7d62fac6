"""Reads darkfield's files into numpy, for notebooks and for the report.

    from darkfield_io import Activations, Dictionary, Results
    acts = Activations("runs/pocket/base.acts.h5")
    x = acts.site("blocks.3.hook_resid_post", slice(0, 1000))     # float32 [1000, width]
    crosscoder = Dictionary("runs/pocket/crosscoder.dict.h5")
    diff = Results("runs/pocket/diff.h5")
    diff["latents/delta_norm"], diff.attributes["model0"]

Needs h5py and numpy. Nothing is recomputed here: what the files hold is what was measured.
"""
import os

import h5py
import numpy as np


class NotComplete(Exception):
    """The file is missing, of another kind, or was not finished."""


def _open(path, kind):
    if not os.path.exists(path):
        raise NotComplete(f"{path} does not exist")
    file = h5py.File(path, "r")
    found = _text(file.attrs.get("format", ""))
    if kind is not None and found != kind:
        raise NotComplete(f"{path} is {found or 'not a darkfield file'}, expected {kind}")
    if int(file.attrs.get("complete", 0)) != 1:
        raise NotComplete(f"{path} is not complete")
    # HDF5 reads rows of a part that is missing as zeros: better to say so.
    parts = file["parts"].attrs if "parts" in file else {}
    for name in (_text(parts[key]) for key in sorted(parts) if key.startswith("name")):
        part = os.path.join(os.path.dirname(path), name)
        if not os.path.exists(part):
            raise NotComplete(f"{part}, a part of {path}, does not exist")
    return file


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _attributes(group):
    return {k: _text(v) if isinstance(v, (bytes, str, np.bytes_)) else v for k, v in group.attrs.items()}


def _floats(dataset, rows):
    """Rows as float32. bfloat16 is read as raw 16-bit words and shifted: h5py's own conversion is 200 times slower."""
    if dataset.dtype.itemsize == 2 and dataset.id.get_type().get_fields()[1:3] == (7, 8):
        raw = np.empty((len(range(*rows.indices(dataset.shape[0]))),) + dataset.shape[1:], "<u2")
        start, stop, step = rows.indices(dataset.shape[0])
        if step != 1:
            raise ValueError("rows must be a slice with step 1")
        if dataset.is_virtual:
            return _floats_in_parts(dataset, start, stop)
        with open(dataset.file.filename, "rb") as f:
            f.seek(dataset.id.get_offset() + start * raw[0:1].nbytes)
            f.readinto(raw)
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(dataset[rows], np.float32)


def _floats_in_parts(dataset, start, stop):
    """Rows [start, stop) of a dataset whose rows stand in files of their own."""
    pieces = [np.empty((0,) + dataset.shape[1:], np.float32)]
    for source in sorted(dataset.virtual_sources(), key=lambda s: s.vspace.get_select_bounds()[0][0]):
        (first, *_), (last, *_) = source.vspace.get_select_bounds()
        low, high = max(start, first), min(stop, last + 1)
        if low < high:
            with h5py.File(os.path.join(os.path.dirname(dataset.file.filename), source.file_name), "r") as part:
                pieces.append(_floats(part[source.dset_name], slice(low - first, high - first)))
    return np.concatenate(pieces)


class Results:
    """Any result file: results["latents/fires"] is an array, results.attributes the root attributes."""

    def __init__(self, path, kind=None):
        self.path, self.file = path, _open(path, kind)
        self.attributes = _attributes(self.file)

    def __contains__(self, name):
        return name in self.file

    def __getitem__(self, name):
        return self.file[name][()]

    def group(self, name):
        """The attributes of a group or dataset."""
        return _attributes(self.file[name])

    def members(self, name="/"):
        return sorted(self.file[name])

    def names(self, name):
        """The texts name0, name1, ... of a group, in order."""
        found = self.group(name)
        return [found[f"name{i}"] for i in range(sum(k.startswith("name") and k[4:].isdigit() for k in found))]

    @property
    def provenance(self):
        return self.group("provenance") if "provenance" in self.file else {}


class Activations(Results):
    """One model's activations: tokens, windows, documents and sites."""

    def __init__(self, path):
        super().__init__(path, "darkfield-activations")
        self.sites = sorted(self.file["sites"])

    def site(self, name, rows=slice(None)):
        """float32 [rows, width] in the model's own units."""
        return _floats(self.file["sites"][name], rows)

    @property
    def tokens(self):
        return self["tokens"]


class Dictionary(Results):
    """Encoder [m, D_in], decoder [m, D_out], one latent per row, in normalised units, of the first group.

    groups [G, 6] lists first latent, latents, first input column, input columns, first output column, output columns; only cross-layer
    transcoders have more than one, and matrices(g) gives those of group g. skip is W_skip [D_out, D_in] of a skip transcoder.
    """

    def __init__(self, path):
        super().__init__(path, "darkfield-dictionary")
        self.encoder, self.decoder = self["group/0/W_enc"], self["group/0/W_dec"]
        self.encoder_bias, self.decoder_bias = self["group/0/b_enc"], self["b_dec"]
        self.kind, self.groups = self.attributes["kind"], self["groups"]
        self.skip = self["W_skip"] if "W_skip" in self.file else None

    def matrices(self, group):
        """W_enc, W_dec, b_enc of a group."""
        return tuple(self[f"group/{group}/{name}"] for name in ("W_enc", "W_dec", "b_enc"))

    @property
    def history(self):
        """Training curves: name -> array over logging intervals."""
        return {name: self[f"history/{name}"] for name in self.members("history")}


class Vocabulary:
    """Token texts of a statistics file: vocabulary[id] is a str."""

    def __init__(self, statistics):
        self.bytes, self.offset = bytes(statistics["vocabulary/bytes"].tobytes()), statistics["vocabulary/offset"]

    def __len__(self):
        return len(self.offset) - 1

    def raw(self, token):
        return self.bytes[self.offset[token]:self.offset[token + 1]] if token < len(self) else b""

    def __getitem__(self, token):
        return self.raw(token).decode("utf-8", "replace")
